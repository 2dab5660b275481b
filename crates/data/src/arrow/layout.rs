//! The layout of an Arrow IPC file: its schema and record batches as byte ranges.
//!
//! The metadata of the format are FlatBuffers, which `arrow-ipc` verifies and reads. The array decoder of `arrow-ipc` is not used: it
//! validates all values when it opens a batch, which reads every caption, and it trusts lengths and offsets of the footer, so a damaged
//! file can make it panic.

use std::ops::Range;

use arrow_buffer::Buffer;
use arrow_ipc::{Endianness, Field, MessageHeader, MetadataVersion, Precision, Type};

const MAGIC: &[u8] = b"ARROW1";
/// Number of bytes after the footer: its length (4 bytes) and the magic bytes.
const TRAILER: usize = 4 + MAGIC.len();
/// The bytes before the length of a message since format version 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Maximum size of a footer or message header in bytes. A batch of ten columns needs less than 2 KB, and 24 bytes in the footer.
const MAX_METADATA: usize = 64 << 20;

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No values (columns of an empty shard, answers of a test split).
    Null,
    /// Text or binary. `large`: Arrow's large types, whose offsets have 8 bytes instead of 4.
    Bytes { large: bool, text: bool },
    /// Lists. `large`: Arrow's large lists, whose offsets have 8 bytes instead of 4.
    List { large: bool, item: Box<Kind> },
    /// Signed integers of 64 bits.
    Int64,
    /// Floating point of 64 bits.
    Float64,
    /// Any other type. Its values are not read.
    Other {
        name: &'static str,
        buffers: usize,
        children: Vec<Kind>,
    },
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Null => f.write_str("nothing (type null)"),
            Kind::Bytes { text: true, .. } => f.write_str("text"),
            Kind::Bytes { text: false, .. } => f.write_str("binary values"),
            Kind::List { item, .. } => write!(f, "lists of {item}"),
            Kind::Int64 => f.write_str("64-bit integers"),
            Kind::Float64 => f.write_str("64-bit floating-point numbers"),
            Kind::Other { name, .. } => write!(f, "values of type {name}"),
        }
    }
}

/// A column of the schema.
#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    pub kind: Kind,
}

/// An array of a batch. All ranges are byte ranges inside the file; `validity` and `offsets_or_numbers` are long enough for `len`
/// values.
#[derive(Debug, Default)]
pub(super) struct Array {
    pub len: usize,
    /// The validity bitmap, if at least one value is null.
    pub validity: Option<Range<usize>>,
    /// `len + 1` offsets (text, binary, lists) or `len` values of eight bytes.
    pub offsets_or_numbers: Range<usize>,
    /// The bytes of text and binary values.
    pub data: Range<usize>,
    /// The items of all lists of the array.
    pub items: Option<Box<Array>>,
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
}

/// Reads the layout of a file. The error is a message that says what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Layout, String> {
    let (footer_start, footer) = footer_bytes(bytes)?;
    let footer = arrow_ipc::root_as_footer(&footer)
        .map_err(|_| "its footer is damaged; make or copy the file again".to_string())?;
    if footer.version() < MetadataVersion::V4 {
        return Err("it was written in an Arrow format older than 0.8; write it again with a current pyarrow".into());
    }
    let schema = footer.schema().ok_or("its footer has no schema; make the file again")?;
    if schema.endianness() != Endianness::Little {
        return Err("it is big-endian; write it again on a little-endian machine".into());
    }
    let columns = schema
        .fields()
        .iter()
        .flatten()
        .map(|field| {
            Ok(Column {
                name: field.name().unwrap_or_default().to_string(),
                kind: kind_of(&field)?,
            })
        })
        .collect::<Result<Vec<_>, String>>()?;

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
        let batch = parse_batch(&bytes[start..body_start], body_start..end, &columns)
            .map_err(|reason| format!("record batch {index} {reason}"))?;
        // Each row of a readable column takes bytes. Columns without buffers could claim any number of rows.
        if batch.rows > bytes.len() {
            return Err(format!(
                "record batch {index} claims {} rows, more than the file can hold",
                batch.rows
            ));
        }
        batches.push(batch);
    }
    Ok(Layout { columns, batches })
}

/// Returns the position and the bytes of the footer.
fn footer_bytes(bytes: &[u8]) -> Result<(usize, Buffer), String> {
    if bytes.is_empty() {
        return Err("it is empty; make or copy the file again".into());
    }
    if !bytes.starts_with(MAGIC) {
        return Err(if bytes.starts_with(&CONTINUATION) {
            "it is an Arrow stream, not an Arrow file; write it with pyarrow.ipc.new_file".into()
        } else if bytes.starts_with(b"FEA1") {
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

/// Returns the [`Kind`] of a field.
fn kind_of(field: &Field<'_>) -> Result<Kind, String> {
    let children = || {
        field
            .children()
            .iter()
            .flatten()
            .map(|child| kind_of(&child))
            .collect::<Result<Vec<_>, String>>()
    };
    let only_child = || {
        let mut children = children()?;
        match (children.pop(), children.is_empty()) {
            (Some(child), true) => Ok(Box::new(child)),
            _ => Err("its schema is damaged: a list without an item type".to_string()),
        }
    };
    let other = |name, buffers, children| {
        Ok(Kind::Other {
            name,
            buffers,
            children,
        })
    };
    if field.dictionary().is_some() {
        return other("dictionary", 2, Vec::new());
    }
    match field.type_type() {
        Type::Null => Ok(Kind::Null),
        Type::Binary => Ok(Kind::Bytes {
            large: false,
            text: false,
        }),
        Type::LargeBinary => Ok(Kind::Bytes {
            large: true,
            text: false,
        }),
        Type::Utf8 => Ok(Kind::Bytes {
            large: false,
            text: true,
        }),
        Type::LargeUtf8 => Ok(Kind::Bytes {
            large: true,
            text: true,
        }),
        Type::List => Ok(Kind::List {
            large: false,
            item: only_child()?,
        }),
        Type::LargeList => Ok(Kind::List {
            large: true,
            item: only_child()?,
        }),
        Type::Int => match field.type_as_int() {
            Some(int) if int.bitWidth() == 64 && int.is_signed() => Ok(Kind::Int64),
            _ => other("integer of another width", 2, Vec::new()),
        },
        Type::FloatingPoint => match field.type_as_floating_point() {
            Some(float) if float.precision() == Precision::DOUBLE => Ok(Kind::Float64),
            _ => other("floating point of another width", 2, Vec::new()),
        },
        Type::Bool => other("boolean", 2, Vec::new()),
        Type::Decimal => other("decimal", 2, Vec::new()),
        Type::Date | Type::Time | Type::Timestamp | Type::Duration | Type::Interval => {
            other("date or time", 2, Vec::new())
        }
        Type::FixedSizeBinary => other("fixed-size binary", 2, Vec::new()),
        Type::FixedSizeList => other("fixed-size list", 1, children()?),
        Type::Struct_ => other("struct", 1, children()?),
        Type::Map => other("map", 2, children()?),
        unknown => Err(format!(
            "its column {:?} has the type {}, which is not supported; write it as binary, string or list",
            field.name().unwrap_or_default(),
            unknown.variant_name().unwrap_or("unknown")
        )),
    }
}

/// Reads a batch from its message header; `body` is the range of its buffers in the file.
fn parse_batch(header: &[u8], body: Range<usize>, columns: &[Column]) -> Result<Batch, String> {
    let start = if header.starts_with(&CONTINUATION) { 8 } else { 4 };
    let header = header
        .get(start..)
        .filter(|header| header.len() <= MAX_METADATA)
        .ok_or("has a header of impossible length")?;
    let header = Buffer::from(header);
    let message = arrow_ipc::root_as_message(&header).map_err(|_| "has a damaged header")?;
    if message.header_type() != MessageHeader::RecordBatch {
        return Err("is not a record batch".into());
    }
    let record = message.header_as_record_batch().ok_or("has no header")?;
    if record.compression().is_some() {
        return Err("is compressed, which is not supported: write the file without compression".into());
    }
    let mut parts = Parts {
        nodes: record
            .nodes()
            .into_iter()
            .flatten()
            .map(|n| (n.length(), n.null_count())),
        buffers: record.buffers().into_iter().flatten().map(|b| (b.offset(), b.length())),
        body,
    };
    let rows = usize::try_from(record.length()).map_err(|_| "has a negative number of rows")?;
    let arrays = columns
        .iter()
        .map(|column| {
            let array = parts.array(&column.kind)?;
            if array.len != rows {
                return Err(format!(
                    "has {rows} rows, but {} in column {:?}",
                    array.len, column.name
                ));
            }
            Ok(array)
        })
        .collect::<Result<Vec<_>, String>>()?;
    Ok(Batch { rows, arrays })
}

/// The remaining array lengths and buffers of a batch, in depth-first order of the columns.
struct Parts<N, B> {
    nodes: N,
    buffers: B,
    body: Range<usize>,
}

impl<N: Iterator<Item = (i64, i64)>, B: Iterator<Item = (i64, i64)>> Parts<N, B> {
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

    /// Takes the array of a column or of the items of a list.
    fn array(&mut self, kind: &Kind) -> Result<Array, String> {
        let (length, nulls) = self.nodes.next().ok_or("has too few arrays")?;
        let len = usize::try_from(length).map_err(|_| "has an array of negative length")?;
        if nulls < 0 || nulls > length {
            return Err("has an impossible number of null values".into());
        }
        let mut array = Array {
            len,
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
            Kind::List { large, item } => {
                array.offsets_or_numbers = self.offsets(len, *large)?;
                array.items = Some(Box::new(self.array(item)?));
            }
            Kind::Int64 | Kind::Float64 => array.offsets_or_numbers = self.elements(len, 8)?,
            Kind::Null | Kind::Other { .. } => {}
        }
        Ok(array)
    }
}
