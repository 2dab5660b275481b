//! Checks of the content of a file: its size, and the hash that the server states as its tag.

use std::fs::File;
use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Size of the pieces in which a file is read.
const PIECE: usize = 1 << 20;
/// Number of hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// Number of hexadecimal digits of a SHA-1.
const SHA1_DIGITS: usize = 40;

/// Returns what is wrong with the content of a file; `None` if it has the hash that the tag is. A tag of 64 hexadecimal digits is the
/// SHA-256 of a large file, one of 40 the hash of Git's object of a small file; other tags are not hashes.
///
/// # Errors
/// Returns the error of the operating system.
pub fn fault(file: &mut File, tag: &str) -> io::Result<Option<String>> {
    let is_hash = |digits| tag.len() == digits && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (name, found) = if is_hash(SHA256_DIGITS) {
        ("SHA-256", hash(file, Sha256::new())?)
    } else if is_hash(SHA1_DIGITS) {
        let header = format!("blob {}\0", file.metadata()?.len());
        ("Git hash", hash(file, Sha1::new_with_prefix(header))?)
    } else {
        return Ok(None);
    };
    Ok((!found.eq_ignore_ascii_case(tag)).then(|| format!("its {name} is {found}, not {tag}")))
}

/// Returns the hash of a file as hexadecimal digits.
fn hash<D: Digest>(file: &mut File, mut hasher: D) -> io::Result<String> {
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_both_hashes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        let check = |tag: &str| fault(&mut File::open(&path).unwrap(), tag).unwrap();
        // Of `sha256sum` and `git hash-object`.
        assert_eq!(
            check("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
            None
        );
        assert_eq!(check("ce013625030ba8dba906f756967f9e9ca394464a"), None);
        assert_eq!(check("some-tag"), None);
        for tag in ["0".repeat(64), "0".repeat(40)] {
            assert!(check(&tag).unwrap().ends_with(&format!("not {tag}")));
        }
    }
}
