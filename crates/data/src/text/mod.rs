//! Text: WordPiece and masking.
