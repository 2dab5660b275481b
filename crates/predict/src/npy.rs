//! Arrays in NumPy's format `.npy`, version 1.0: a header in Python's notation, then the values.

use std::io::{self, Write};

/// First bytes of a file, with the version.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The header is padded so that the values begin at a multiple of this number of bytes.
const ALIGNMENT: usize = 64;

/// Writes values as an array of little-endian f32 in row-major order.
///
/// # Errors
/// Returns the errors of `out`.
///
/// # Panics
/// Panics if the product of `shape` is not the number of values.
pub fn write(out: &mut dyn Write, shape: &[usize], values: &[f32]) -> io::Result<()> {
    assert_eq!(
        shape.iter().product::<usize>(),
        values.len(),
        "values of shape {shape:?}"
    );
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    // A tuple of one number has a comma in Python.
    let comma = if shape.len() == 1 { "," } else { "" };
    let shape = format!("({}{comma})", sizes.join(", "));
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, two bytes for the length, the header, and a line break at its end.
    let length = (MAGIC.len() + 2 + header.len() + 1).next_multiple_of(ALIGNMENT) - MAGIC.len() - 2;
    out.write_all(MAGIC)?;
    out.write_all(&(length as u16).to_le_bytes())?;
    out.write_all(format!("{header:<width$}\n", width = length - 1).as_bytes())?;
    for chunk in values.chunks(1 << 14) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Reads an array of little-endian f32, as [`write()`] writes it, in any shape.
///
/// # Errors
/// Returns a message if the bytes are not such an array.
pub fn read(bytes: &[u8]) -> Result<Vec<f32>, &'static str> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("not a .npy file of version 1.0")?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or("the header is truncated")?;
    let (header, values) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(*length)))
        .ok_or("the header is truncated")?;
    let header = String::from_utf8_lossy(header);
    if !header.contains("'<f4'") || header.contains("'fortran_order': True") {
        return Err("not an array of little-endian f32 in row-major order");
    }
    let (values, rest) = values.as_chunks::<4>();
    match rest {
        [] => Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect()),
        _ => Err("the values are truncated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_numpy() {
        let mut file = Vec::new();
        write(&mut file, &[2, 3], &[1.0, -2.0, 0.5, 0.0, 3.0, 9.0]).unwrap();
        assert_eq!(&file[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = std::str::from_utf8(&file[10..128]).unwrap();
        assert!(
            header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"),
            "{header}"
        );
        assert!(header.ends_with('\n'));
        assert_eq!(file.len(), 128 + 24);
        assert_eq!(file[128..132], 1f32.to_le_bytes());
        assert_eq!(read(&file).unwrap(), [1.0, -2.0, 0.5, 0.0, 3.0, 9.0]);
    }

    #[test]
    fn rejects_other_files() {
        let mut file = Vec::new();
        write(&mut file, &[3], &[1.0, 2.0, 3.0]).unwrap();
        for end in 0..file.len() {
            let result = read(&file[..end]);
            // A file that is cut at the end of a value has fewer values.
            assert!(result.is_err() || end >= 128 && (end - 128) % 4 == 0, "{end}");
        }
        let doubles = String::from_utf8_lossy(&file[..128]).replace("<f4", "<f8").into_bytes();
        assert!(read(&doubles).is_err());
    }
}
