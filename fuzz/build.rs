//! Lists the schemes that ship.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/schemes");
    println!("cargo::rerun-if-changed={}", dir.display());
    let entries: Result<Vec<_>, _> = std::fs::read_dir(&dir)?.collect();
    let mut files: Vec<PathBuf> = entries?.iter().map(|entry| entry.path()).collect();
    files.sort();
    let mut text = String::from("const SCHEMES: &[(&str, &str)] = &[\n");
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(text, "    ({name:?}, include_str!({:?})),", file.canonicalize()?.display().to_string())?;
    }
    text.push_str("];\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("schemes.rs"), text)?;
    Ok(())
}
