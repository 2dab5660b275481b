//! Setting the parameters of a model from the tensors of a file.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::files::mapping::{AdaptError, Fit, Plan, plan};
use crate::files::{LoadReport, Options, TensorView, WeightIndex};
use vlct_tensor::{Compute, Parameters, Tensor};

/// Makes the parameters `declarations` (name, shape, whether it is trainable) with the values of a file. Every value is copied once, from
/// the bytes of the file to its place, on all cores; other tensors of the file are not read.
///
/// # Errors
/// Returns the errors of [`load`], and [`AdaptError::Missing`] if the file lacks a parameter.
pub(crate) fn read(
    declarations: Vec<(String, Vec<usize>, bool)>,
    file: &WeightIndex,
) -> Result<(Parameters, LoadReport), AdaptError> {
    let shapes: Vec<_> = declarations
        .iter()
        .map(|(n, shape, _)| (n.clone(), shape.clone()))
        .collect();
    let options = Options {
        partial: true,
        ..Options::default()
    };
    let plan = plan(file.shapes(), &file.unreadable, &shapes, options)?;
    if let Some(name) = plan.report.missing.first() {
        return Err(AdaptError::Missing { name: name.clone() });
    }
    let sources = sources(&plan, file, &shapes)?;
    // No tensor is missing, so there is one source for each parameter, in the same order.
    let first_non_finite = AtomicUsize::new(usize::MAX);
    let parameters = Parameters::filled(declarations, Compute::default().device, |id, _, out| {
        let Source { tensor, fit, .. } = &sources[id.index()];
        if !fit.read(tensor, out) {
            first_non_finite.fetch_min(id.index(), Ordering::Relaxed);
        }
    });
    if let Some(Source { target, .. }) = sources.get(first_non_finite.into_inner()) {
        let tensor = parameters.id(target).map(|id| parameters.tensor(id));
        return Err(not_finite(
            target,
            &tensor.as_ref().map(Tensor::to_host).unwrap_or_default(),
        ));
    }
    Ok((parameters, plan.report))
}

/// Sets the parameters that a file has and leaves the others unchanged. Every value is copied from the bytes of the file; other tensors of
/// the file are not read.
///
/// # Errors
/// Returns an [`AdaptError`] if a shape differs and no rule adapts it, a tensor of the model has integers, values that cannot be read,
/// or values that are NaN or infinite, the file has no tensor of the model, or, unless [`Options::partial`] is set, fewer than nearly
/// all that the model needs. After an error about values, parameters before the tensor are already set.
pub(crate) fn load(
    parameters: &mut Parameters,
    file: &WeightIndex,
    options: Options,
) -> Result<LoadReport, AdaptError> {
    let shapes = shapes(parameters);
    let plan = plan(file.shapes(), &file.unreadable, &shapes, options)?;
    let mut values = Vec::new();
    for source in sources(&plan, file, &shapes)? {
        let Some(id) = parameters.id(source.target) else {
            continue;
        };
        values.resize(source.values, 0.0);
        if !source.fit.read(source.tensor, &mut values) {
            return Err(not_finite(source.target, &values));
        }
        parameters.set(id, &values);
    }
    Ok(plan.report)
}

/// Returns names and shapes of all parameters.
pub(crate) fn shapes(parameters: &Parameters) -> Vec<(String, Vec<usize>)> {
    let parameters = parameters.iter().map(|(_, p)| (p.name.clone(), p.shape.clone()));
    parameters.collect()
}

/// The tensor of a file from which a parameter is made.
struct Source<'a> {
    /// The name of the parameter.
    target: &'a str,
    /// Number of values of the parameter.
    values: usize,
    tensor: &'a TensorView<'a>,
    fit: Fit,
}

/// Returns the tensors of a file from which the parameters of a plan are made, in the order of the plan.
fn sources<'a>(
    plan: &Plan,
    file: &'a WeightIndex,
    shapes: &'a [(String, Vec<usize>)],
) -> Result<Vec<Source<'a>>, AdaptError> {
    let mut sources = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let (target, shape) = &shapes[step.target];
        let Some((index, fit)) = step.source else { continue };
        let Some((_, tensor)) = file.tensors.get_index(index) else {
            continue;
        };
        if !tensor.dtype().is_floating() {
            return Err(AdaptError::NotFloating {
                name: target.clone(),
                dtype: tensor.dtype(),
            });
        }
        sources.push(Source {
            target,
            values: shape.iter().product(),
            tensor,
            fit,
        });
    }
    Ok(sources)
}

fn not_finite(name: &str, values: &[f32]) -> AdaptError {
    AdaptError::NotFinite {
        name: name.to_owned(),
        count: values.iter().filter(|value| !value.is_finite()).count(),
        values: values.len(),
    }
}
