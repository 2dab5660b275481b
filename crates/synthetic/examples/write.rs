//! Writes all synthetic datasets to a directory: `cargo run --release -p vlct-synthetic --example write -- DIR`.

use std::path::PathBuf;

use vlct_synthetic::{SyntheticConfig, write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or("give the directory to write to")?;
    let images = write(&directory, &SyntheticConfig::default(), &mut |done, total| {
        eprint!("\r{done} of {total} images");
    })?;
    eprintln!("\r{images} images in {}", directory.display());
    Ok(())
}
