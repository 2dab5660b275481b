//! Columns that are compressed with zstd.
//!
//! The `parquet` crate decompresses zstd with a C library only, and takes no other decompressor. Here, the crate reads the pages as if
//! they were not compressed, and [`ZstdPages`] decompresses them with `ruzstd`.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use ruzstd::decoding::StreamingDecoder;

/// Opens a column that is compressed with zstd. No page has more than `max_page` bytes when it is decompressed.
///
/// # Errors
/// Returns an error if the column's metadata is damaged.
pub fn open(file: &Arc<File>, column: &ColumnChunkMetaData, rows: usize, max_page: usize) -> Result<ColumnReader> {
    let stored = column
        .clone()
        .into_builder()
        .set_compression(Compression::UNCOMPRESSED)
        .build()?;
    let pages = ZstdPages {
        pages: SerializedPageReader::new(file.clone(), &stored, rows, None)?,
        max_page,
    };
    Ok(get_column_reader(column.column_descr_ptr(), Box::new(pages)))
}

/// The pages of a column, decompressed.
struct ZstdPages {
    pages: SerializedPageReader<File>,
    max_page: usize,
}

impl ZstdPages {
    fn decompressed(&self, mut page: Page) -> Result<Page> {
        match &mut page {
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => {
                *buf = decompress(buf, 0, self.max_page)?.into();
            }
            Page::DataPageV2 {
                buf,
                is_compressed: true,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                // The levels at the beginning of these pages are not compressed.
                let levels = (*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize);
                *buf = decompress(buf, levels, self.max_page)?.into();
            }
            Page::DataPageV2 { .. } => {}
        }
        Ok(page)
    }
}

/// Decompresses the bytes of a page after the first `stored` ones. The result has at most `max_page` bytes.
fn decompress(page: &[u8], stored: usize, max_page: usize) -> Result<Vec<u8>> {
    let damaged = |what: String| ParquetError::General(format!("a page compressed with zstd {what}"));
    let (levels, mut compressed) = page
        .split_at_checked(stored)
        .ok_or_else(|| damaged("is shorter than its levels".into()))?;
    let mut decompressed = levels.to_vec();
    // A page without values has no frame.
    while !compressed.is_empty() {
        let before = compressed.len();
        let decoder =
            StreamingDecoder::new(&mut compressed).map_err(|error| damaged(format!("is damaged: {error}")))?;
        let limit = (max_page + 1).saturating_sub(decompressed.len());
        decoder
            .take(limit as u64)
            .read_to_end(&mut decompressed)
            .map_err(|error| damaged(format!("is damaged: {error}")))?;
        if decompressed.len() > max_page {
            return Err(damaged("is larger than its header claims".into()));
        }
        if compressed.len() == before {
            return Err(damaged("is damaged".into()));
        }
    }
    Ok(decompressed)
}

impl Iterator for ZstdPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for ZstdPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.decompressed(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.pages.take_deferred_dictionary()?;
        page.map(|page| self.decompressed(page)).transpose()
    }
}
