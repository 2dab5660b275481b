use super::*;
use serde_json::json;

fn run_records() -> Vec<Value> {
    vec![
        json!({"step": 10, "epoch": 0, "time": 1.0, "vqa/train/loss": 4.0, "vqa/train/score": 0.1, "grad_norm": 2.0}),
        json!({"step": 20, "epoch": 0, "time": 2.0, "vqa/train/loss": 3.0, "vqa/train/score": 0.2, "grad_norm": 1.0}),
        json!({"step": 20, "epoch": 0, "time": 2.5, "vqa/val/loss_epoch": 3.5, "vqa/val/score_epoch": 0.25, "val/the_metric": 0.25}),
        json!({"step": 30, "epoch": 0, "time": 3.5, "vqa/val/loss_epoch": 3.0, "vqa/val/score_epoch": 0.5, "val/the_metric": 0.5}),
    ]
}

#[test]
fn metrics_are_those_of_the_last_validation() {
    let metrics = metrics(&run_records());
    let found: Vec<(&str, f64)> = metrics.iter().map(|m| (&m.key[..], m.value)).collect();
    assert_eq!(found, [("vqa/val/loss_epoch", 3.0), ("vqa/val/score_epoch", 0.5)]);
    assert_eq!(metrics[1].name, "vqa: score");
    assert!(super::metrics(&[]).is_empty());
}

#[test]
fn charts_join_training_and_validation() {
    let charts = charts(&run_records());
    let titles: Vec<&str> = charts.iter().map(|chart| &chart.title[..]).collect();
    assert_eq!(titles, ["vqa: loss", "vqa: score", "grad norm"]);
    assert_eq!(charts[0].curves[1].points, [(20.0, 3.5), (30.0, 3.0)]);
    assert_eq!(charts[2].curves.len(), 1);
}

#[test]
fn quantities_that_only_validations_have_get_a_chart() {
    let record = |step: u64, top5: f64| {
        json!({"step": step, "images/val/accuracy_epoch": 0.5, "images/val/top5_epoch": top5, "images/val/accuracy/cat": top5,
            "val/the_metric": 0.5})
    };
    let training = json!({"step": 1, "images/train/accuracy": 0.1});
    let records = [training, record(10, 0.75), record(20, 0.875)];
    let charts = charts(&records);
    let titles: Vec<&str> = charts.iter().map(|chart| &chart.title[..]).collect();
    assert_eq!(titles, ["images: accuracy", "images: top5"]);
    assert_eq!(charts[1].curves.len(), 1);
    assert_eq!(charts[1].curves[0].points, [(10.0, 0.75), (20.0, 0.875)]);
    let metrics = metrics(&records);
    let names: Vec<&str> = metrics.iter().map(|metric| &metric.name[..]).collect();
    assert_eq!(names, ["images: accuracy", "images: top5"], "no single classes");
}
