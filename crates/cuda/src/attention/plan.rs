//! The tiles of packed sequences, in the memory of a device.

use crate::context::{Buffer, Context};
use crate::driver::{Address, Error, Result};
use crate::launch::{to_blocks, to_i32};
use bytemuck::{Pod, Zeroable};

/// Rows of a tile: `TILE` in `kernels/attention.cuh`.
pub(super) const TILE: usize = 64;

/// A tile of one sequence: `Tile` in `kernels/attention.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Tile {
    first_token: i32,
    tokens: i32,
    first_query: i32,
    queries: i32,
    first: i32,
}

/// Packed sequences, cut into tiles of 64 rows for the blocks of the kernels.
///
/// Sequence `s` has the tokens `cu_seqlens_k[s]..cu_seqlens_k[s+1]`. Its query tokens are its first tokens; their outputs are the rows
/// `cu_seqlens_q[s]..cu_seqlens_q[s+1]`. A plan serves all layers that have these sequences, forward and backward.
#[derive(Debug)]
pub struct Plan {
    tokens: usize,
    queries: usize,
    query_tiles: Tiles,
    token_tiles: Tiles,
}

/// A list of tiles on the device, one for each block in the first dimension of a grid.
#[derive(Debug)]
pub(super) struct Tiles {
    list: Buffer,
    count: u32,
}

impl Tiles {
    fn upload(context: &Context, tiles: &[Tile]) -> Result<Self> {
        let list = context.upload(tiles)?;
        let count = to_blocks(OPERATION, tiles.len())?;
        Ok(Self { list, count })
    }

    pub fn address(&self) -> Address {
        self.list.address()
    }

    pub fn count(&self) -> u32 {
        self.count
    }
}

const OPERATION: &str = "plan of attention";

impl Plan {
    /// Makes the lists of tiles and copies them to the device.
    ///
    /// # Errors
    /// Those of the driver, or if the offsets do not ascend from 0, differ in number, or a sequence has more query tokens than tokens.
    pub fn new(context: &Context, cu_seqlens_k: &[usize], cu_seqlens_q: &[usize]) -> Result<Self> {
        let fails = |reason: String| {
            Err(Error::InvalidArgument {
                operation: OPERATION,
                reason,
            })
        };
        for (name, offsets) in [("cu_seqlens_k", cu_seqlens_k), ("cu_seqlens_q", cu_seqlens_q)] {
            if offsets.first() != Some(&0) || !offsets.is_sorted() {
                return fails(format!("`{name}` does not ascend from 0"));
            }
        }
        if cu_seqlens_k.len() != cu_seqlens_q.len() {
            let (k, q) = (cu_seqlens_k.len() - 1, cu_seqlens_q.len() - 1);
            return fails(format!("there are tokens of {k} sequences and query tokens of {q}"));
        }
        let mut sequences = Vec::with_capacity(cu_seqlens_k.len());
        for (s, (k, q)) in cu_seqlens_k.windows(2).zip(cu_seqlens_q.windows(2)).enumerate() {
            let (tokens, queries) = (k[1] - k[0], q[1] - q[0]);
            if queries > tokens {
                return fails(format!("sequence {s} has {queries} query tokens, but {tokens} tokens"));
            }
            sequences.push(Tile {
                first_token: to_i32(OPERATION, k[0])?,
                tokens: to_i32(OPERATION, tokens)?,
                first_query: to_i32(OPERATION, q[0])?,
                queries: to_i32(OPERATION, queries)?,
                first: 0,
            });
        }
        // Long sequences first, so that the last blocks of a launch are short.
        sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.tokens));
        let tiles = |rows: fn(&Tile) -> i32| -> Vec<Tile> {
            let of = |s: &Tile| {
                let sequence = *s;
                (0..rows(s)).step_by(TILE).map(move |first| Tile { first, ..sequence })
            };
            sequences.iter().flat_map(of).collect()
        };
        Ok(Self {
            tokens: cu_seqlens_k[cu_seqlens_k.len() - 1],
            queries: cu_seqlens_q[cu_seqlens_q.len() - 1],
            query_tiles: Tiles::upload(context, &tiles(|s| s.queries))?,
            token_tiles: Tiles::upload(context, &tiles(|s| s.tokens))?,
        })
    }

    /// The number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The number of query tokens of all sequences.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Tiles of the query tokens of all sequences.
    pub(super) fn query_tiles(&self) -> &Tiles {
        &self.query_tiles
    }

    /// Tiles of all tokens of all sequences.
    pub(super) fn token_tiles(&self) -> &Tiles {
        &self.token_tiles
    }
}
