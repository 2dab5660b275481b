//! Writing an Arrow IPC file: under a temporary name, in batches of bounded size, renamed when it is whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, Field, Schema};
use serde_json::json;

use crate::{DataError, Result};

/// A batch is written when it holds this many bytes, or ...
const BATCH_BYTES: usize = 32 << 20;
/// ... this many rows.
const BATCH_ROWS: usize = 8192;
/// Offsets inside a batch are 32-bit.
const MAX_VALUE: usize = i32::MAX as usize - BATCH_BYTES;

/// Stands in the pandas metadata for the number of rows, which is known when the file is finished. Wide enough for any
/// number, and found nowhere else.
const ROWS_PLACEHOLDER: &str = "11111111111111111111";

/// A column to write: the Arrow field and the names that pandas has for its type.
pub(super) struct ColumnSpec {
    pub field: Field,
    pub pandas_type: &'static str,
    pub numpy_type: &'static str,
}

/// Metadata that pandas writes and reads back: a range index (no column) and the types of the columns.
fn pandas_metadata(columns: &[ColumnSpec]) -> String {
    let columns: Vec<_> = columns
        .iter()
        .map(|c| {
            json!({"name": c.field.name(), "field_name": c.field.name(), "pandas_type": c.pandas_type,
                   "numpy_type": c.numpy_type, "metadata": null})
        })
        .collect();
    json!({
        "index_columns": [{"kind": "range", "name": null, "start": 0, "stop": "ROWS", "step": 1}],
        "column_indexes": [{"name": null, "field_name": null, "pandas_type": "unicode", "numpy_type": "object",
                            "metadata": {"encoding": "UTF-8"}}],
        "columns": columns,
        "creator": {"library": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")},
        "pandas_version": "1.1.5",
    })
    .to_string()
    .replace("\"ROWS\"", ROWS_PLACEHOLDER)
}

/// An Arrow file being written. Dropped before [`Self::finish`], it leaves nothing behind.
pub(super) struct TableFile {
    path: PathBuf,
    temporary: PathBuf,
    /// None once finished.
    writer: Option<FileWriter<BufWriter<File>>>,
    schema: Arc<Schema>,
    rows: u64,
    pending_rows: usize,
    pending_bytes: usize,
}

impl TableFile {
    /// Creates the temporary file beside `path`.
    pub fn create(path: &Path, columns: &[ColumnSpec]) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            DataError::Invalid(format!("{}: give the name of an .arrow file to write", path.display()))
        })?;
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(temporary_name);
        let fields: Vec<Field> = columns.iter().map(|c| c.field.clone()).collect();
        let metadata = HashMap::from([("pandas".to_string(), pandas_metadata(columns))]);
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|source| DataError::Io {
                path: temporary.clone(),
                source,
            })?;
        let mut table = Self {
            path: path.to_path_buf(),
            temporary,
            writer: None,
            schema,
            rows: 0,
            pending_rows: 0,
            pending_bytes: 0,
        };
        let writer = FileWriter::try_new_buffered(file, &table.schema).map_err(|e| table.error(e))?;
        table.writer = Some(writer);
        Ok(table)
    }

    fn error(&self, error: ArrowError) -> DataError {
        match error {
            ArrowError::IoError(_, source) => self.io(source),
            other => DataError::Format {
                path: self.path.clone(),
                reason: format!("cannot be written: {other}"),
            },
        }
    }

    fn io(&self, source: std::io::Error) -> DataError {
        DataError::Io {
            path: self.path.clone(),
            source,
        }
    }

    /// Announces a row of `bytes` bytes. Answers whether the rows collected so far must be written first; the row is
    /// then to be announced again.
    pub fn admit(&mut self, bytes: usize) -> Result<bool> {
        if bytes > MAX_VALUE {
            return Err(DataError::Format {
                path: self.path.clone(),
                reason: format!("a row of {bytes} bytes is too large for an Arrow file; leave the picture out"),
            });
        }
        let full =
            self.pending_rows > 0 && (self.pending_rows >= BATCH_ROWS || self.pending_bytes + bytes > BATCH_BYTES);
        if !full {
            self.pending_rows += 1;
            self.pending_bytes += bytes;
        }
        Ok(full)
    }

    /// Writes the collected rows as one batch (none if there are none).
    pub fn write(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| self.error(e))?;
        (self.pending_rows, self.pending_bytes) = (0, 0);
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if let Some(writer) = &mut self.writer {
            let written = writer.write(&batch);
            written.map_err(|e| self.error(e))?;
        }
        Ok(())
    }

    /// Completes the file, makes sure it is on the disk, and gives it its name. Returns its number of rows.
    pub fn finish(mut self) -> Result<u64> {
        if let Some(mut writer) = self.writer.take() {
            writer.finish().map_err(|e| self.error(e))?;
            let buffered = writer.into_inner().map_err(|e| self.error(e))?;
            let mut file = buffered.into_inner().map_err(|e| self.io(e.into_error()))?;
            fill_in_rows(&mut file, self.rows).map_err(|e| self.io(e))?;
            file.sync_all().map_err(|e| self.io(e))?;
            std::fs::rename(&self.temporary, &self.path).map_err(|e| self.io(e))?;
            sync_folder(&self.path).map_err(|e| self.io(e))?;
        }
        Ok(self.rows)
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        // After `finish` the temporary name is gone and this does nothing.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Makes the renaming itself durable.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Replaces the placeholder by the number of rows in both copies of the schema: the message at the beginning and the footer.
fn fill_in_rows(file: &mut File, rows: u64) -> std::io::Result<()> {
    let number = format!("{rows:>width$}", width = ROWS_PLACEHOLDER.len());
    let length = file.metadata()?.len();
    let mut trailer = [0u8; 4];
    file.seek(SeekFrom::End(-10))?;
    file.read_exact(&mut trailer)?;
    let footer = u64::from(u32::from_le_bytes(trailer)) + 10;
    // The schema message follows the magic; it is about as long as the schema in the footer without the batches.
    for (start, size) in [
        (0, length.min(64 << 10)),
        (length - footer.min(length), footer.min(length)),
    ] {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file).take(size).read_to_end(&mut bytes)?;
        let at = bytes
            .windows(ROWS_PLACEHOLDER.len())
            .position(|window| window == ROWS_PLACEHOLDER.as_bytes())
            .ok_or_else(|| std::io::Error::other("the schema of the written file cannot be found"))?;
        file.seek(SeekFrom::Start(start + at as u64))?;
        file.write_all(number.as_bytes())?;
    }
    Ok(())
}
