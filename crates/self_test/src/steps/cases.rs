//! Training steps of all tasks, recorded and generated.

use super::recorded::{Tensors, config, load};
use super::{Subject, generated, images, nlvr2, pretrain, retrieval, vqa};
use vlct_model::Model;
use vlct_tasks::vqa::Vqa;
use vlct_tasks::{Batch, Task};
use vlct_tensor::{Compute, Gradients, Tape};

/// A training step: a model, a task and a batch.
pub(super) struct Case {
    pub name: String,
    pub model: Model,
    task: Box<dyn Task>,
    batch: Batch,
}

/// Losses and gradients of a step by name.
pub(super) type LossesAndGradients = Vec<(String, Vec<f32>)>;

impl Case {
    fn new(name: String, model: Model, task: impl Task + 'static, batch: Batch) -> Self {
        Self {
            name,
            model,
            task: Box::new(task),
            batch,
        }
    }

    /// Runs the step and returns each loss, the total loss and each gradient.
    pub(super) fn run(&mut self, compute: Compute) -> LossesAndGradients {
        self.model.set_compute(compute);
        let tape = Tape::new(self.model.compute());
        let outcome = self.task.forward(&self.model, &tape, &self.batch);
        let losses = outcome.measures.iter().filter(|measure| measure.key.ends_with("loss"));
        let mut values: LossesAndGradients = losses.map(|m| (m.key.to_string(), vec![m.value()])).collect();
        values.push(("total".to_string(), vec![outcome.total().tensor().item()]));
        let mut gradients = Gradients::new(self.model.parameters());
        tape.backward(outcome.total(), 1.0, &mut gradients);
        for (id, parameter) in self.model.parameters().iter() {
            if let Some(gradient) = gradients.get(id) {
                values.push((parameter.name.clone(), gradient.to_host().into_owned()));
            }
        }
        values
    }
}

/// Returns the recorded steps of VLC.
pub(super) fn recorded(subject: &Subject) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for directory in subject.directories("model") {
        let name = |task: &str| format!("{}: {task}", directory.display());
        let open = |file: &str| Tensors::open(directory.join(file));
        let (config, mask_ratio) = config(&directory, pretrain::HEADS)?;
        let t = open("pretrain_step.safetensors")?;
        let batch = pretrain::RecordedBatch::read(&t, "", mask_ratio)?.batch();
        let model = load(&directory, "pretrain.ckpt", config)?;
        cases.push(Case::new(name("pre-training"), model, pretrain::task()?, batch));
        let t = open("vqa_step.safetensors")?;
        let model = vqa::model(&directory, &t)?;
        cases.push(Case::new(name("answering"), model, Vqa::default(), vqa::batch(&t)?));
        let t = open("nlvr2_step.safetensors")?;
        let model = nlvr2::model(&directory)?;
        cases.push(Case::new(name("pairs"), model, nlvr2::TASK, nlvr2::batch(&t)?));
        let t = open("irtr_step.safetensors")?;
        let (batch, task) = retrieval::batch(&t)?;
        cases.push(Case::new(name("ranking"), retrieval::model(&directory)?, task, batch));
    }
    Ok(cases)
}

/// Returns the recorded steps of the image classifier.
pub(super) fn recorded_classifiers(subject: &Subject) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for directory in subject.directories("imagenet") {
        for file in images::FILES {
            let t = Tensors::open(directory.join(file))?;
            let (task, batch) = images::batch(&t)?;
            cases.push(Case::new(file.to_owned(), images::model(&t)?, task, batch));
        }
    }
    Ok(cases)
}

/// Returns a step of each task, with models and batches drawn from `seed`.
pub(super) fn generated(seed: u64) -> Result<[Case; 6], String> {
    let name = |task: &str| format!("model {seed}: {task}");
    let (model, batch) = generated::draw_pretraining(seed);
    let pretraining = Case::new(name("pre-training"), model, pretrain::task()?, batch);
    let (model, batch) = generated::draw_answering(seed);
    let answering = Case::new(name("answering"), model, Vqa::default(), batch);
    let (model, task, batch) = generated::draw_ranking(seed);
    let ranking = Case::new(name("ranking"), model, task, batch);
    let (model, batch) = generated::draw_pairs(seed);
    let pairs = Case::new(name("pairs"), model, nlvr2::TASK, batch);
    let (model, task, batch) = generated::draw_labels(seed);
    let labels = Case::new(name("labels"), model, task, batch);
    let (model, task, batch) = generated::draw_classifier(seed);
    let classifier = Case::new(name("classifier"), model, task, batch);
    Ok([pretraining, answering, ranking, pairs, labels, classifier])
}
