//! Pictures: decoding, resizing, augmentation.
