//! Links the unwinder into the library. As a library of its own (`libgcc_s.so.1`) it has to be found
//! and loaded first at every import, for which each started program waits 0.25 ms.

use std::path::Path;
use std::process::Command;

const UNWINDER: &str = "libgcc_eh.a";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let answer = Command::new("gcc").arg(format!("-print-file-name={UNWINDER}")).output();
    // A gcc that has none answers with the bare name; then it stays a library of its own.
    let path = answer.ok().and_then(|answer| String::from_utf8(answer.stdout).ok());
    if let Some(folder) = path.as_deref().and_then(|path| Path::new(path.trim()).parent())
        && folder.is_absolute()
    {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static=gcc_eh");
    }
}
