/* What two C programs reach with the bare means of the machine.
 *
 *   baselines MODE SECONDS CPU CPU     (a negative CPU is left to the scheduler)
 *
 *   line     a word in shared memory, back and forth, each side spinning on its own cache line
 *   pipe     64 bytes through two pipes, blocking read and write
 *   eventfd  two eventfds, each slept on by an edge-triggered epoll that nothing is read back from
 *   memcpy   64 MiB from one warm buffer to another, in one process
 *   cached   1 MiB from one buffer to another, both in the cache
 *
 * Prints JSON: microseconds of a round trip (memcpy: of a copy), and of both processes' processor time
 * for each. Round trips over a cache line are too short to time one by one: those are means of 64.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 22, TOGETHER = 64, MESSAGE = 64, COPY = 64 << 20, CACHED = 1 << 20 };
static const uint64_t STOP = UINT64_MAX;

static uint64_t now(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

static void pin(int cpu)
{
    if (cpu < 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        exit(2);
}

/* 128 bytes apart: processors fetch cache lines in pairs. */
static struct {
    _Alignas(128) _Atomic uint64_t there;
    _Alignas(128) _Atomic uint64_t back;
} *lines;
static int out[2], back[2], out_event, back_event, epoll;

static void open_line(void)
{
    lines = mmap(NULL, sizeof *lines, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void line_answers(void)
{
    for (uint64_t next = 1;; next++) {
        uint64_t seen;
        while ((seen = atomic_load_explicit(&lines->there, memory_order_acquire)) < next)
            ;
        if (seen == STOP)
            return;
        atomic_store_explicit(&lines->back, next, memory_order_release);
    }
}

static void line_asks(void)
{
    static uint64_t next;
    for (int i = 0; i < TOGETHER; i++) {
        atomic_store_explicit(&lines->there, ++next, memory_order_release);
        while (atomic_load_explicit(&lines->back, memory_order_acquire) != next)
            ;
    }
}

static void line_stops(void) { atomic_store(&lines->there, STOP); }

static void must(ssize_t done)
{
    if (done <= 0)
        exit(3);
}

static void open_pipe(void) { must(!pipe(out) && !pipe(back)); }

static void pipe_answers(void)
{
    char message[MESSAGE];
    while (read(out[0], message, MESSAGE) == MESSAGE && message[0] == 0)
        must(write(back[1], message, MESSAGE));
}

static void pipe_asks(void)
{
    char message[MESSAGE] = {0};
    must(write(out[1], message, MESSAGE));
    must(read(back[0], message, MESSAGE));
}

static void pipe_stops(void)
{
    char message[MESSAGE] = {1};
    must(write(out[1], message, MESSAGE));
}

static void open_eventfd(void)
{
    out_event = eventfd(0, 0);
    back_event = eventfd(0, 0);
    lines = mmap(NULL, sizeof *lines, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void watch(int event)
{
    struct epoll_event wish = {.events = EPOLLIN | EPOLLET};
    epoll = epoll_create1(0);
    must(!epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wish));
}

static void ring(int event)
{
    uint64_t one = 1;
    must(write(event, &one, sizeof one));
}

static void await_ring(void)
{
    struct epoll_event event;
    must(epoll_wait(epoll, &event, 1, -1));
}

static void eventfd_answers(void)
{
    watch(out_event);
    for (;;) {
        await_ring();
        if (atomic_load(&lines->there) == STOP)
            return;
        ring(back_event);
    }
}

static void eventfd_asks(void)
{
    if (!epoll)
        watch(back_event);
    ring(out_event);
    await_ring();
}

static void eventfd_stops(void)
{
    atomic_store(&lines->there, STOP);
    ring(out_event);
}

static int in_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t *times;
static size_t count;

static void measure(double seconds, void (*once)(void))
{
    uint64_t begin = now(CLOCK_MONOTONIC), end = begin + (uint64_t)(seconds * 1e9), last = begin;
    do {
        once();
        uint64_t at = now(CLOCK_MONOTONIC);
        times[count++] = (uint32_t)(at - last);
        last = at;
    } while (last < end && count < MOST);
}

static void report(int together, uint64_t cpu_ns)
{
    qsort(times, count, sizeof *times, in_order);
    printf("{\"p50_us\": %.4f, \"p99_us\": %.4f, \"cpu_us\": %.4f, \"count\": %zu}\n",
           times[count / 2] / 1e3 / together, times[count * 99 / 100] / 1e3 / together,
           (double)cpu_ns / 1e3 / (double)count / together, count * (size_t)together);
}

static char *from, *to;

static size_t copied = COPY;

static void copy(void) { memcpy(to, from, copied); }

static void copies(double seconds)
{
    from = malloc(COPY);
    to = malloc(COPY);
    memset(from, 1, COPY);
    memset(to, 2, COPY);
    measure(seconds / 5, copy); /* warms up */
    count = 0;
    uint64_t used = now(CLOCK_PROCESS_CPUTIME_ID);
    measure(seconds, copy);
    report(1, now(CLOCK_PROCESS_CPUTIME_ID) - used);
}

static const struct {
    const char *name;
    void (*open)(void), (*answers)(void), (*asks)(void), (*stops)(void);
    int together;
} modes[] = {
    {"line", open_line, line_answers, line_asks, line_stops, TOGETHER},
    {"pipe", open_pipe, pipe_answers, pipe_asks, pipe_stops, 1},
    {"eventfd", open_eventfd, eventfd_answers, eventfd_asks, eventfd_stops, 1},
};

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    double seconds = atof(argv[2]);
    times = calloc(MOST, sizeof *times);
    memset(times, 1, MOST * sizeof *times); /* touched before, not while, the clock runs */
    if (!strcmp(argv[1], "cached"))
        copied = CACHED;
    if (!strcmp(argv[1], "memcpy") || !strcmp(argv[1], "cached")) {
        pin(atoi(argv[3]));
        copies(seconds);
        return 0;
    }
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(argv[1], modes[i].name))
            continue;
        modes[i].open();
        pid_t child = fork();
        if (child == 0) {
            pin(atoi(argv[4]));
            modes[i].answers();
            _exit(0);
        }
        pin(atoi(argv[3]));
        measure(seconds / 5, modes[i].asks); /* warms up */
        clockid_t childs = (clockid_t)((~(unsigned)child << 3) | 2);
        uint64_t used = now(CLOCK_PROCESS_CPUTIME_ID) + now(childs);
        count = 0;
        measure(seconds, modes[i].asks);
        used = now(CLOCK_PROCESS_CPUTIME_ID) + now(childs) - used;
        modes[i].stops();
        waitpid(child, NULL, 0);
        report(modes[i].together, used);
        return 0;
    }
    return 2;
}
