// What the attention kernels share: tiles of packed sequences, and the dot products of outputs and their gradients.
//
// Tokens attend within their sequence. The query tokens of a sequence are its first tokens; the rows of `out`, `d_out`, the log-sum-exp and
// `delta` are the query tokens of all sequences. With H heads of `w` columns, D = H * w. A block has one tile (x) and one head (y).
#pragma once
#include "device.cuh"

// Rows of a tile.
constexpr int TILE = 64;

// Part of a sequence: its query tokens, or all of its tokens, from `first` on.
struct Tile {
    // The first row of the sequence among all tokens, and their number.
    int first_token, tokens;
    // The first row of the sequence among all query tokens, and their number.
    int first_query, queries;
    int first;
};
