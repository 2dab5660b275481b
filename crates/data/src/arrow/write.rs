//! A writer of Arrow IPC files in batches of bounded size. A file has a temporary name until it is complete.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::convert::IpcSchemaEncoder;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message};
use arrow_ipc::{Block, FooterBuilder, KeyValue, KeyValueArgs, MetadataVersion};
use arrow_schema::{ArrowError, Field, Schema};
use flatbuffers::FlatBufferBuilder;
use serde_json::json;

use super::layout::READING_KEY;
use crate::{DataError, Result};
use vlct_image::Reading;
use vlct_util::at;
use vlct_util::atomic::{hidden_sibling, sync_directory};

/// Maximum size of a batch in bytes. A larger row is the only row of its batch.
const BATCH_BYTES: usize = 32 << 20;
/// Maximum number of rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Maximum size of a row in bytes: offsets inside a batch are 32-bit.
const MAX_ROW_BYTES: usize = i32::MAX as usize - BATCH_BYTES;

/// The first and the last bytes of the file.
const MAGIC: [u8; 6] = *b"ARROW1";
/// The message that ends the sequence of batches.
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Placeholder in the pandas metadata for the number of rows, which is not known until the file is finished. The placeholder is as
/// wide as the largest count and occurs nowhere else.
const ROWS_PLACEHOLDER: &str = "11111111111111111111";

/// A column to write: the Arrow field, and the pandas names of its type.
pub(super) struct ColumnSpec {
    pub field: Field,
    pub pandas_type: &'static str,
    pub numpy_type: &'static str,
}

/// Returns the metadata that pandas writes: a range index, which is not a column, and the types of the columns.
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

/// The position of a record batch in a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BatchBlock {
    /// Offset of the message from the beginning of the file.
    pub offset: u64,
    /// Length of the message's metadata, padding included.
    pub metadata: u32,
    /// Length of the values, padding included.
    pub body: u64,
    /// Number of rows.
    pub rows: u64,
}

impl BatchBlock {
    fn end(&self) -> Option<u64> {
        self.offset
            .checked_add(u64::from(self.metadata))?
            .checked_add(self.body)
    }
}

/// An Arrow file being written. If it is dropped before [`Self::finish`], the temporary file of [`Self::create`] is deleted, and that of
/// [`Self::resume`] is kept.
///
/// `arrow-ipc` encodes schema and batches. The framing is written here, because its `FileWriter` cannot continue a file that another
/// process began.
pub(super) struct TableFile {
    path: PathBuf,
    temporary: PathBuf,
    keep_temporary: bool,
    out: BufWriter<File>,
    schema: Arc<Schema>,
    /// How the images become pixels, for the metadata of the footer.
    reading: Option<Reading>,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    /// Positions of the written batches.
    blocks: Vec<BatchBlock>,
    /// Offset of the next message.
    end: u64,
    pending_rows: usize,
    pending_bytes: usize,
}

impl TableFile {
    /// Creates the temporary file beside `path`.
    pub fn create(path: &Path, columns: &[ColumnSpec]) -> Result<Self> {
        let temporary = beside(path, &format!("{}.part", std::process::id()))?;
        Self::open(path, temporary, columns, Vec::new(), false)
    }

    /// Continues the file of an earlier writer, or starts a new file if `blocks` is empty. `blocks` are the batches that the earlier
    /// writer recorded ([`Self::blocks`]): the file at [`partial_path`] is truncated after the last of them, and rows are appended.
    pub fn resume(path: &Path, columns: &[ColumnSpec], blocks: Vec<BatchBlock>) -> Result<Self> {
        Self::open(path, partial_path(path)?, columns, blocks, true)
    }

    fn open(
        path: &Path,
        temporary: PathBuf,
        columns: &[ColumnSpec],
        blocks: Vec<BatchBlock>,
        keep_temporary: bool,
    ) -> Result<Self> {
        let fields: Vec<Field> = columns.iter().map(|c| c.field.clone()).collect();
        let metadata = HashMap::from([("pandas".to_string(), pandas_metadata(columns))]);
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(blocks.is_empty())
            .open(&temporary)
            .map_err(at::<DataError>(&temporary))?;
        let mut table = Self {
            path: path.to_path_buf(),
            temporary: temporary.clone(),
            keep_temporary,
            out: BufWriter::with_capacity(1 << 20, file),
            schema,
            reading: None,
            options: IpcWriteOptions::default(),
            context: IpcWriteContext::default(),
            blocks,
            end: 0,
            pending_rows: 0,
            pending_bytes: 0,
        };
        table.begin()?;
        Ok(table)
    }

    /// Writes the magic bytes and the schema, or seeks to the end of the existing batches.
    fn begin(&mut self) -> Result<()> {
        let magic = [&MAGIC[..], &[0; 2]].concat();
        let message = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            &self.schema,
            &mut DictionaryTracker::new(true),
            &self.options,
        );
        let mut head = magic;
        write_message(&mut head, message, &self.options).map_err(|e| self.error(e))?;
        self.end = head.len() as u64;
        if self.blocks.is_empty() {
            return self.out.write_all(&head).map_err(|e| self.io(e));
        }
        for block in &self.blocks {
            self.end = Some(block)
                .filter(|block| block.offset == self.end)
                .and_then(BatchBlock::end)
                .ok_or_else(|| {
                    self.format("the positions of its batches are inconsistent; delete it and start again")
                })?;
        }
        let file = self.out.get_mut();
        let length = file.metadata().map(|m| m.len());
        if length.map_err(|e| self.io(e))? < self.end {
            return Err(self.format("it is shorter than its recorded batches; delete it and start again"));
        }
        let file = self.out.get_mut();
        let resized = file
            .set_len(self.end)
            .and_then(|()| file.seek(SeekFrom::Start(self.end)));
        resized.map(|_| ()).map_err(|e| self.io(e))
    }

    fn format(&self, reason: &str) -> DataError {
        DataError::format(&self.temporary, reason)
    }

    fn error(&self, error: ArrowError) -> DataError {
        match error {
            ArrowError::IoError(_, source) => self.io(source),
            other => DataError::format(&self.path, format!("cannot be written: {other}")),
        }
    }

    fn io(&self, source: std::io::Error) -> DataError {
        at(&self.path)(source)
    }

    /// Counts a row of `bytes` bytes and returns true if it fits in the batch. If it does not fit, the caller must write the buffered
    /// rows and call again.
    pub fn try_add_row(&mut self, bytes: usize) -> Result<bool> {
        if bytes > MAX_ROW_BYTES {
            return Err(DataError::RowTooLarge {
                path: self.path.clone(),
                bytes,
            });
        }
        let is_full =
            self.pending_rows > 0 && (self.pending_rows >= BATCH_ROWS || self.pending_bytes + bytes > BATCH_BYTES);
        if !is_full {
            self.pending_rows += 1;
            self.pending_bytes += bytes;
        }
        Ok(!is_full)
    }

    /// Positions of the written batches.
    pub fn blocks(&self) -> &[BatchBlock] {
        &self.blocks
    }

    /// Flushes the written batches to the disk.
    pub fn sync(&mut self) -> Result<()> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        synced.map_err(|e| self.io(e))
    }

    /// Writes the buffered rows as a batch, if there are any.
    pub fn write(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| self.error(e))?;
        (self.pending_rows, self.pending_bytes) = (0, 0);
        if batch.num_rows() == 0 {
            return Ok(());
        }
        // No column has a dictionary, so the encoder returns only the batch.
        let encoded = IpcDataGenerator::default()
            .encode(
                &batch,
                &mut DictionaryTracker::new(true),
                &self.options,
                &mut self.context,
            )
            .and_then(|(_, batch)| write_message(&mut self.out, batch, &self.options));
        let (metadata, body) = encoded.map_err(|e| self.error(e))?;
        let block = BatchBlock {
            offset: self.end,
            metadata: u32::try_from(metadata).map_err(|_| self.format("a batch has too many columns"))?,
            body: body as u64,
            rows: batch.num_rows() as u64,
        };
        self.end += metadata as u64 + block.body;
        self.blocks.push(block);
        Ok(())
    }

    /// Encodes the footer, which has the schema and the positions of the batches.
    fn footer(&self) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let blocks: Vec<Block> = self
            .blocks
            .iter()
            .map(|b| Block::new(b.offset as i64, b.metadata as i32, b.body as i64))
            .collect();
        let metadata = self.reading.map(|reading| {
            let key = builder.create_string(READING_KEY);
            let value = builder.create_string(&json!(reading).to_string());
            let entry = KeyValue::create(
                &mut builder,
                &KeyValueArgs {
                    key: Some(key),
                    value: Some(value),
                },
            );
            builder.create_vector(&[entry])
        });
        let dictionaries = builder.create_vector::<Block>(&[]);
        let batches = builder.create_vector(&blocks);
        let schema = IpcSchemaEncoder::new().schema_to_fb_offset(&mut builder, &self.schema);
        let mut footer = FooterBuilder::new(&mut builder);
        footer.add_version(MetadataVersion::V5);
        footer.add_schema(schema);
        footer.add_dictionaries(dictionaries);
        footer.add_recordBatches(batches);
        if let Some(metadata) = metadata {
            footer.add_custom_metadata(metadata);
        }
        let root = footer.finish();
        builder.finish(root, None);
        builder.finished_data().to_vec()
    }

    /// Sets how the images of the file become pixels.
    pub fn set_reading(&mut self, reading: Reading) {
        self.reading = Some(reading);
    }

    /// Completes the file, flushes it to the disk, calls `before_rename` with its size in bytes, and renames it. Returns its number of
    /// rows.
    pub fn finish(mut self, before_rename: impl FnOnce(u64) -> Result<()>) -> Result<u64> {
        let rows = self.blocks.iter().map(|b| b.rows).sum();
        let footer = self.footer();
        let length = (footer.len() as u32).to_le_bytes();
        let end = [&END_OF_STREAM[..], &footer, &length, &MAGIC].concat();
        let written = self.out.write_all(&end).and_then(|()| self.out.flush());
        written.map_err(|e| self.io(e))?;
        let file = self.out.get_mut();
        let size = fill_in_rows(file, rows)
            .and_then(|()| file.sync_all())
            .and_then(|()| file.metadata())
            .map(|metadata| metadata.len());
        before_rename(size.map_err(|e| self.io(e))?)?;
        let renamed = std::fs::rename(&self.temporary, &self.path).and_then(|()| sync_directory(&self.path));
        renamed.map_err(|e| self.io(e))?;
        Ok(rows)
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if !self.keep_temporary {
            // After `finish` the temporary file does not exist, and this has no effect.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Returns the path of the unfinished file of a resumable writer: `.NAME.part` beside `path`.
///
/// # Errors
/// Returns [`DataError::Invalid`] if `path` does not end in a file name.
pub fn partial_path(path: &Path) -> Result<PathBuf> {
    beside(path, "part")
}

/// Returns the path `.NAME.SUFFIX` beside `path`.
fn beside(path: &Path, suffix: &str) -> Result<PathBuf> {
    hidden_sibling(path, suffix)
        .map_err(|_| DataError::Invalid(format!("{}: give the name of an .arrow file to write", path.display())))
}

/// Replaces the placeholder by the number of rows in both copies of the schema: in the first message and in the footer.
fn fill_in_rows(file: &mut File, rows: u64) -> std::io::Result<()> {
    let number = format!("{rows:>width$}", width = ROWS_PLACEHOLDER.len());
    let length = file.metadata()?.len();
    // The last ten bytes of the file are the length of the footer and the magic bytes.
    let mut footer_len = [0u8; 4];
    file.seek(SeekFrom::End(-10))?;
    file.read_exact(&mut footer_len)?;
    let end_size = u64::from(u32::from_le_bytes(footer_len)) + 10;
    // The schema message, of a few KiB, follows the magic bytes.
    for (start, size) in [
        (0, length.min(64 << 10)),
        (length - end_size.min(length), end_size.min(length)),
    ] {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file).take(size).read_to_end(&mut bytes)?;
        let position = bytes
            .windows(ROWS_PLACEHOLDER.len())
            .position(|window| window == ROWS_PLACEHOLDER.as_bytes())
            .ok_or_else(|| std::io::Error::other("the schema of the written file cannot be found"))?;
        file.seek(SeekFrom::Start(start + position as u64))?;
        file.write_all(number.as_bytes())?;
    }
    Ok(())
}
