//! Lists the schemes that ship.

use std::fmt::Write;

fn main() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/schemes");
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut text = String::from("const SCHEMES: &[(&str, &str)] = &[\n");
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let path = file.canonicalize().unwrap();
        writeln!(text, "    ({name:?}, include_str!({:?})),", path.display().to_string()).unwrap();
    }
    text.push_str("];\n");
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR").unwrap()).join("schemes.rs"), text).unwrap();
}
