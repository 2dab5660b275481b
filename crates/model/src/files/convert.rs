//! Conversion of a weight file to another format or naming scheme.

use std::path::Path;

use super::{BACKBONE_PREFIX, FileError, Header, Problem, StateDict, Style, WeightFile};

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertReport {
    /// Number of tensors written.
    pub tensors: usize,
    /// Number of values written.
    pub parameters: usize,
    /// Naming scheme of the input.
    pub from: Style,
    /// Naming scheme of the output.
    pub to: Style,
    /// Tensors that the output's naming scheme does not have, which are not written.
    pub left_out: Vec<String>,
}

impl std::fmt::Display for ConvertReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors with {} values", self.tensors, self.parameters)?;
        if self.from == self.to {
            write!(f, ", {} names kept", self.to)?;
        } else {
            write!(f, ", names changed from {} to {}", self.from, self.to)?;
        }
        if !self.left_out.is_empty() {
            write!(
                f,
                "\nleft out, because they are not part of the backbone: {}",
                super::mapping::abbreviate(&self.left_out)
            )?;
        }
        Ok(())
    }
}

/// Reads `input` and writes it as `output`, whose extension determines the format. With `style` the names are changed to VLC's
/// (`transformer.blocks.0.…`) or MAE's (`blocks.0.…`, backbone and decoder only, like `convert_vlc2mae.py`).
///
/// # Errors
/// Returns a [`FileError`] if `input` cannot be read, if it has no tensors of the backbone to convert to MAE's names, or if `output`
/// cannot be written.
pub fn convert(input: &Path, output: &Path, style: Option<Style>) -> Result<ConvertReport, FileError> {
    let WeightFile {
        state,
        style: from,
        summary,
        ..
    } = super::read(input)?;
    let to = style.unwrap_or(from);
    let (state, left_out) = rename(state, from, to);
    if state.is_empty() {
        return Err(FileError::new(input, Problem::NoBackbone));
    }
    let header = Header {
        epoch: summary.epoch.unwrap_or(0),
        global_step: summary.global_step.unwrap_or(0),
        ..to.into()
    };
    super::write(output, &state, &header)?;
    Ok(ConvertReport {
        tensors: state.len(),
        parameters: state.parameters(),
        from,
        to,
        left_out,
    })
}

/// Renames tensors. Also returns the names of tensors that the new naming scheme does not have; these tensors are removed.
pub fn rename(state: StateDict, from: Style, to: Style) -> (StateDict, Vec<String>) {
    let mut left_out = Vec::new();
    let renamed = match (from, to) {
        (Style::Vlc, Style::Mae) => state
            .into_iter()
            .filter_map(|(name, tensor)| match name.strip_prefix(BACKBONE_PREFIX) {
                Some(stripped) => Some((stripped.to_owned(), tensor)),
                None => {
                    left_out.push(name);
                    None
                }
            })
            .collect(),
        (Style::Mae, Style::Vlc) => state
            .into_iter()
            .map(|(name, tensor)| (format!("{BACKBONE_PREFIX}{name}"), tensor))
            .collect(),
        _ => state,
    };
    (renamed, left_out)
}
