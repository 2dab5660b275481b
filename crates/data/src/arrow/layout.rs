//! The layout of an Arrow IPC file or stream: its schema and record batches as byte ranges.
//!
//! The metadata of the format are FlatBuffers, which `arrow-ipc` verifies and reads. The array decoder of `arrow-ipc` is not used: it
//! validates all values when it opens a batch, which reads every caption, and it trusts lengths and offsets of the footer, so a damaged
//! file can make it panic.

use std::ops::Range;

use arrow_buffer::Buffer;
use arrow_ipc::{CompressionType, Endianness, Message, MessageHeader, MetadataVersion, Schema};

use super::kinds::{Column, Kind, columns_of};
use vlct_image::Reading;

const MAGIC: &[u8] = b"ARROW1";
/// Number of bytes after the footer: its length (4 bytes) and the magic bytes.
const TRAILER: usize = 4 + MAGIC.len();
/// The bytes before the length of a message since format version 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Size of a view: the length of a value, and its bytes or where they are.
pub(super) const VIEW_BYTES: usize = 16;
/// Maximum size of a footer or message header in bytes. A batch of ten columns needs less than 2 KB, and 24 bytes in the footer.
const MAX_METADATA: usize = 64 << 20;

/// An array of a batch. All ranges are byte ranges inside the file; `validity` and `offsets_or_numbers` are long enough for `len`
/// values.
#[derive(Debug, Default)]
pub(super) struct Array {
    pub len: usize,
    /// Number of values that are null.
    pub nulls: usize,
    /// The validity bitmap, if at least one value is null.
    pub validity: Option<Range<usize>>,
    /// `len + 1` offsets (text, binary, lists), `len` numbers, or `len` views of 16 bytes.
    pub offsets_or_numbers: Range<usize>,
    /// The bytes of text and binary values.
    pub data: Range<usize>,
    /// The buffers that views refer to.
    pub view_data: Vec<Range<usize>>,
    /// The items of all lists of the array, or the fields of a struct, each with `len` values.
    pub children: Vec<Array>,
}

/// A record batch: an array for each column.
#[derive(Debug)]
pub(super) struct Batch {
    pub rows: usize,
    pub arrays: Vec<Array>,
}

/// Columns and batches of a file.
#[derive(Debug)]
pub(super) struct Layout {
    pub columns: Vec<Column>,
    pub batches: Vec<Batch>,
    /// How the images become pixels, if the file says so.
    pub reading: Option<Reading>,
}

/// Key of the file's metadata whose value says how the images become pixels, as JSON.
pub(super) const READING_KEY: &str = "vlct.images";

/// Reads the layout of a file or a stream. The error is a message that says what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Layout, String> {
    if bytes.starts_with(&CONTINUATION) {
        return parse_stream(bytes);
    }
    let (footer_start, footer) = footer_bytes(bytes)?;
    let footer = arrow_ipc::root_as_footer(&footer)
        .map_err(|_| "its footer is damaged; make or copy the file again".to_string())?;
    let schema = footer.schema().ok_or("its footer has no schema; make the file again")?;
    let columns = read_schema(footer.version(), schema)?;
    let mut batches = Vec::new();
    let mut total_bytes = 0usize;
    for (index, block) in footer.recordBatches().iter().flatten().enumerate() {
        let damaged = || format!("record batch {index} lies outside the file; the file is damaged, copy it again");
        let start = usize::try_from(block.offset()).map_err(|_| damaged())?;
        let header_len = usize::try_from(block.metaDataLength()).map_err(|_| damaged())?;
        let body_len = usize::try_from(block.bodyLength()).map_err(|_| damaged())?;
        let body_start = start.checked_add(header_len).ok_or_else(damaged)?;
        let end = body_start
            .checked_add(body_len)
            .filter(|end| *end <= footer_start)
            .ok_or_else(damaged)?;
        // Batches that share bytes are rejected, which bounds the number of rows by the size of the file.
        total_bytes = total_bytes.saturating_add(header_len + body_len);
        if total_bytes > bytes.len() {
            return Err(format!(
                "record batch {index} overlaps another one; the file is damaged"
            ));
        }
        let header = &bytes[start..body_start];
        let batch = batch_header(header)
            .and_then(|header| parse_batch(&header, body_start..end, &columns, bytes.len()))
            .map_err(|reason| format!("record batch {index} {reason}"))?;
        batches.push(batch);
    }
    let mut metadata = footer.custom_metadata().into_iter().flatten();
    let reading = match metadata.find(|entry| entry.key() == Some(READING_KEY)) {
        Some(entry) => Some(
            serde_json::from_str(entry.value().unwrap_or_default()).map_err(|error| {
                format!("its metadata {READING_KEY} cannot be read ({error}); prepare the dataset again")
            })?,
        ),
        None => None,
    };
    Ok(Layout {
        columns,
        batches,
        reading,
    })
}

/// Reads the layout of a stream: messages one after the other, each with a header and a body.
fn parse_stream(bytes: &[u8]) -> Result<Layout, String> {
    let truncated = || "it is a truncated Arrow stream (it has no end mark); copy or make it again".to_string();
    let mut columns: Option<Vec<Column>> = None;
    let mut batches = Vec::new();
    let mut offset = 0usize;
    loop {
        let prefix = bytes.get(offset..offset.saturating_add(8)).ok_or_else(truncated)?;
        let (mark, length) = prefix.split_at(4);
        let start = offset;
        let damaged = |what: &str| {
            format!(
                "the message at byte {start} of this Arrow stream {what}; the file is damaged, copy or make it again"
            )
        };
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        if mark != CONTINUATION {
            return Err(damaged("has no beginning"));
        }
        if length == 0 {
            break;
        }
        let header_end = offset + 8 + length;
        let header = bytes.get(offset + 8..header_end).ok_or_else(truncated)?;
        if length > MAX_METADATA {
            return Err(damaged("has a header of impossible length"));
        }
        // The verifier of FlatBuffers requires alignment, so the header is copied.
        let header = Buffer::from(header);
        let message = arrow_ipc::root_as_message(&header).map_err(|_| damaged("has a damaged header"))?;
        let body_length = usize::try_from(message.bodyLength()).map_err(|_| damaged("has a negative length"))?;
        let body = header_end..header_end.checked_add(body_length).ok_or_else(truncated)?;
        if body.end > bytes.len() {
            return Err(truncated());
        }
        offset = body.end;
        match (message.header_type(), &columns) {
            (MessageHeader::Schema, None) => {
                let schema = message.header_as_schema().ok_or_else(|| damaged("has no schema"))?;
                columns = Some(read_schema(message.version(), schema)?);
            }
            (MessageHeader::Schema, Some(_)) => return Err(damaged("is a second schema")),
            (MessageHeader::RecordBatch, Some(columns)) => {
                let batch = parse_batch(&header, body, columns, bytes.len())
                    .map_err(|reason| format!("record batch {} {reason}", batches.len()))?;
                batches.push(batch);
            }
            (MessageHeader::RecordBatch, None) => return Err(damaged("is a record batch before the schema")),
            // Batches of dictionaries, whose columns are not read.
            _ => {}
        }
    }
    let columns = columns.ok_or("it is an Arrow stream without a schema; make it again")?;
    Ok(Layout {
        columns,
        batches,
        reading: None,
    })
}

/// Returns the columns of a schema.
fn read_schema(version: MetadataVersion, schema: Schema<'_>) -> Result<Vec<Column>, String> {
    if version < MetadataVersion::V4 {
        return Err("it was written in an Arrow format older than 0.8; write it again with a current pyarrow".into());
    }
    if schema.endianness() != Endianness::Little {
        return Err("it is big-endian; write it again on a little-endian machine".into());
    }
    columns_of(version, &schema)
}

/// Returns the position and the bytes of the footer.
fn footer_bytes(bytes: &[u8]) -> Result<(usize, Buffer), String> {
    if bytes.is_empty() {
        return Err("it is empty; make or copy the file again".into());
    }
    if !bytes.starts_with(MAGIC) {
        return Err(if bytes.starts_with(b"FEA1") {
            "it is a Feather file of version 1; write it with pyarrow.ipc.new_file".into()
        } else {
            "it is not an Arrow file (it does not begin with ARROW1)".into()
        });
    }
    let truncated = || "it is truncated (it does not end as an Arrow file does); copy or make it again".to_string();
    let trailer = bytes
        .len()
        .checked_sub(TRAILER)
        .filter(|trailer| *trailer >= 8)
        .ok_or_else(truncated)?;
    if !bytes.ends_with(MAGIC) {
        return Err(truncated());
    }
    let length: [u8; 4] = bytes[trailer..trailer + 4].try_into().expect("four bytes");
    let footer_start = usize::try_from(i32::from_le_bytes(length))
        .ok()
        .and_then(|length| trailer.checked_sub(length))
        .filter(|start| *start >= 8 && trailer - start <= MAX_METADATA)
        .ok_or("the length of its footer is impossible; the file is damaged, make or copy it again")?;
    // The verifier of FlatBuffers requires alignment, so the footer is copied.
    Ok((footer_start, Buffer::from(&bytes[footer_start..trailer])))
}

/// Returns the header of a batch in a file without its prefix, as an aligned copy.
fn batch_header(header: &[u8]) -> Result<Buffer, String> {
    let start = if header.starts_with(&CONTINUATION) { 8 } else { 4 };
    let header = header
        .get(start..)
        .filter(|header| header.len() <= MAX_METADATA)
        .ok_or("has a header of impossible length")?;
    Ok(Buffer::from(header))
}

/// Reads a batch from its message header; `body` is the range of its buffers in a file of `file_bytes` bytes.
fn parse_batch(header: &[u8], body: Range<usize>, columns: &[Column], file_bytes: usize) -> Result<Batch, String> {
    let message: Message<'_> = arrow_ipc::root_as_message(header).map_err(|_| "has a damaged header")?;
    if message.header_type() != MessageHeader::RecordBatch {
        return Err("is not a record batch".into());
    }
    let record = message.header_as_record_batch().ok_or("has no header")?;
    if let Some(compression) = record.compression() {
        let codec = match compression.codec() {
            CompressionType::LZ4_FRAME => "lz4",
            CompressionType::ZSTD => "zstd",
            _ => "an unknown method",
        };
        return Err(format!(
            "is compressed with {codec}, which is not supported: write the file with compression=None (polars: 'uncompressed')"
        ));
    }
    let mut parts = Parts {
        nodes: record
            .nodes()
            .into_iter()
            .flatten()
            .map(|n| (n.length(), n.null_count())),
        buffers: record.buffers().into_iter().flatten().map(|b| (b.offset(), b.length())),
        view_counts: record.variadicBufferCounts().into_iter().flatten(),
        body,
    };
    let rows = usize::try_from(record.length()).map_err(|_| "has a negative number of rows")?;
    // Each row of a readable column takes bytes. Columns without buffers could claim any number of rows.
    if rows > file_bytes {
        return Err(format!("claims {rows} rows, more than the file can hold"));
    }
    let mut arrays = Vec::with_capacity(columns.len());
    for column in columns {
        if matches!(column.kind, Kind::Unknown { .. }) {
            // It is not known how many buffers the column has, so the columns after it have the same kind.
            arrays.push(Array::default());
            continue;
        }
        let array = parts.array(&column.kind)?;
        if array.len != rows {
            return Err(format!(
                "has {rows} rows, but {} in column {:?}",
                array.len, column.name
            ));
        }
        arrays.push(array);
    }
    Ok(Batch { rows, arrays })
}

/// The remaining array lengths and buffers of a batch, in depth-first order of the columns.
struct Parts<N, B, V> {
    nodes: N,
    buffers: B,
    /// The number of data buffers of each column of views.
    view_counts: V,
    body: Range<usize>,
}

impl<N: Iterator<Item = (i64, i64)>, B: Iterator<Item = (i64, i64)>, V: Iterator<Item = i64>> Parts<N, B, V> {
    /// Takes the next buffer and returns its range in the file.
    fn buffer(&mut self) -> Result<Range<usize>, String> {
        let (offset, length) = self.buffers.next().ok_or("has too few buffers")?;
        let outside = || "has a buffer outside its body".to_string();
        let start = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.body.start.checked_add(offset))
            .ok_or_else(outside)?;
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| start.checked_add(length))
            .filter(|end| *end <= self.body.end)
            .ok_or_else(outside)?;
        Ok(start..end)
    }

    /// Takes a buffer that must hold `count` elements of `width` bytes.
    fn elements(&mut self, count: usize, width: usize) -> Result<Range<usize>, String> {
        let range = self.buffer()?;
        match count.checked_mul(width) {
            Some(needed) if needed <= range.len() => Ok(range),
            _ => Err("has a buffer that is too short for its number of values".into()),
        }
    }

    /// Takes `len + 1` offsets. An empty array may have none.
    fn offsets(&mut self, len: usize, large: bool) -> Result<Range<usize>, String> {
        let count = if len == 0 { 0 } else { len.saturating_add(1) };
        self.elements(count, if large { 8 } else { 4 })
    }

    /// Takes the data buffers of a column of views.
    fn view_data(&mut self) -> Result<Vec<Range<usize>>, String> {
        let count = self.view_counts.next().ok_or("has too few counts of buffers")?;
        (0..count).map(|_| self.buffer()).collect()
    }

    /// Takes the array of a column, of the items of a list or of a field.
    fn array(&mut self, kind: &Kind) -> Result<Array, String> {
        let (length, nulls) = self.nodes.next().ok_or("has too few arrays")?;
        let len = usize::try_from(length).map_err(|_| "has an array of negative length")?;
        if nulls < 0 || nulls > length {
            return Err("has an impossible number of null values".into());
        }
        let mut array = Array {
            len,
            nulls: nulls as usize,
            ..Array::default()
        };
        match kind {
            Kind::Null => return Ok(array),
            Kind::Other { buffers, children, .. } => {
                for _ in 0..*buffers {
                    self.buffer()?;
                }
                for child in children {
                    self.array(child)?;
                }
                return Ok(array);
            }
            _ => {}
        }
        let validity = self.buffer()?;
        if nulls > 0 {
            if validity.len() < len.div_ceil(8) {
                return Err("has a validity bitmap that is too short".into());
            }
            array.validity = Some(validity);
        }
        match kind {
            Kind::Bytes { large, .. } => {
                array.offsets_or_numbers = self.offsets(len, *large)?;
                array.data = self.buffer()?;
            }
            Kind::View { .. } => {
                array.offsets_or_numbers = self.elements(len, VIEW_BYTES)?;
                array.view_data = self.view_data()?;
            }
            Kind::List { large, item } => {
                array.offsets_or_numbers = self.offsets(len, *large)?;
                array.children = vec![self.array(item)?];
            }
            Kind::Struct { fields } => {
                for field in fields {
                    let child = self.array(&field.kind)?;
                    if child.len != len {
                        return Err("has a struct whose fields have different numbers of values".into());
                    }
                    array.children.push(child);
                }
            }
            Kind::Int64 | Kind::Float64 => array.offsets_or_numbers = self.elements(len, 8)?,
            Kind::Integer { bytes, .. } => array.offsets_or_numbers = self.elements(len, *bytes)?,
            Kind::Null | Kind::Other { .. } | Kind::Unknown { .. } => {}
        }
        Ok(array)
    }
}
