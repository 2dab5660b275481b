//! The HTML page: its sections from top to bottom.

use super::{
    AnswerExample, HeatMap, MaskedCaption, Metric, NumberFormat, Reconstruction, ReportData, ReportError, Result,
    Retrieval, Token, chart, classes,
    html::{add, duration, escape, join_tokens, number, percent},
    images,
};

/// The style sheet: colours and layout.
const STYLE: &str = include_str!("style.css");

/// Total size of the examples of a page in bytes, above which a section shows only its first example. This keeps the page small
/// enough for e-mail.
const EXAMPLE_BUDGET: usize = 3 << 20;

/// Maximum number of predictions shown per masked word.
const MAX_PREDICTIONS: usize = 3;

/// A section of the page.
struct Section {
    /// Id of the `<section>` element, which the table of contents links to.
    id: &'static str,
    /// Heading.
    title: &'static str,
    /// One or two sentences that explain the section, escaped.
    explanation: String,
    /// The content, as HTML.
    body: String,
}

pub(super) fn render(data: &ReportData) -> Result<String> {
    let sections = sections(data)?;
    let title = escape(&data.title);
    let mut html = String::new();
    add!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
    );
    html.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.push_str("<meta name=\"color-scheme\" content=\"light dark\">");
    add!(
        html,
        "<title>{title}</title><style>{STYLE}</style></head>\n<body><header><h1>{title}</h1>"
    );
    add!(html, "<p class=\"lead\">{}</p>", escape(&data.summary));
    if !data.faults.is_empty() {
        html.push_str("<ul class=\"faults\" aria-label=\"Damaged or missing\">");
        for fault in &data.faults {
            add!(html, "<li>{}</li>", escape(fault));
        }
        html.push_str("</ul>");
    }
    if sections.len() > 1 {
        html.push_str("<nav aria-label=\"Contents\"><ul>");
        for section in &sections {
            add!(html, "<li><a href=\"#{}\">{}</a></li>", section.id, section.title);
        }
        html.push_str("</ul></nav>");
    }
    html.push_str("</header>\n<main>");
    for section in &sections {
        let Section {
            id,
            title,
            explanation,
            body,
        } = section;
        add!(
            html,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>"
        );
        if !explanation.is_empty() {
            add!(html, "<p class=\"explanation\">{explanation}</p>");
        }
        add!(html, "{body}</section>\n");
    }
    let version = env!("CARGO_PKG_VERSION");
    add!(
        html,
        "</main><footer><p>Made by vlct {version}. The values are also in the JSON file beside this page.</p></footer>"
    );
    html.push_str("</body></html>\n");
    Ok(html)
}

/// Returns the sections for which `data` has content.
fn sections(data: &ReportData) -> Result<Vec<Section>> {
    let mut budget = EXAMPLE_BUDGET;
    let mut sections = vec![
        section("results", "Results", &data.baseline, metrics_html(&data.metrics)),
        section(
            "curves",
            "Training curves",
            "Each chart shows one quantity over the training steps. The faint line shows the recorded values, the strong \
             line a moving average of them.",
            curves_html(data),
        ),
        section(
            "classes",
            "Classes",
            "The predictions of the best checkpoint for the held-out images, the classes with the lowest accuracies first.",
            data.classes.as_ref().map(classes::classes_html).unwrap_or_default(),
        ),
        section(
            "words",
            "Masked words",
            "Some words of a caption are masked; the model predicts them from the image and the other words.",
            examples_html(&data.masked_captions, "wide", &mut budget, masked_caption_html)?,
        ),
        section(
            "where",
            "Word-patch alignment",
            "The brighter a part of the image, the more strongly the model aligns it with the highlighted word. The model \
             was trained on images and captions only, without boxes or other positions.",
            examples_html(&data.heat_maps, "narrow", &mut budget, heat_map_html)?,
        ),
        section(
            "patches",
            "Masked patches",
            "Some patches of an image are masked; the model reconstructs them from the visible patches and the caption.",
            examples_html(&data.reconstructions, "wide", &mut budget, reconstruction_html)?,
        ),
        section(
            "retrieval",
            "Text-to-image retrieval",
            "The model scores every held-out candidate image against a caption. The images with the highest scores are \
             shown, highest first; the caption's own image has a frame.",
            examples_html(&data.retrieval, "full", &mut budget, retrieval_html)?,
        ),
        section(
            "answers",
            "Predictions",
            "Held-out examples with the model's predictions, the most probable first, and what is correct.",
            examples_html(&data.answers, "wide", &mut budget, answer_html)?,
        ),
        section("run", "Data and run", "", data_and_run_html(data)),
    ];
    sections.retain(|section| !section.body.is_empty());
    Ok(sections)
}

fn section(id: &'static str, title: &'static str, explanation: &str, body: String) -> Section {
    Section {
        id,
        title,
        explanation: escape(explanation),
        body,
    }
}

fn metrics_html(metrics: &[Metric]) -> String {
    let mut html = String::new();
    for metric in metrics {
        let format_value = |value: f64| match metric.format {
            NumberFormat::Percent => percent(value),
            NumberFormat::Number => number(value),
        };
        add!(
            html,
            "<article class=\"card\"><h3>{}</h3><p class=\"value\">{}</p>",
            escape(&metric.name),
            format_value(metric.value)
        );
        if metric.format == NumberFormat::Percent {
            html.push_str(&bar_html(metric));
        }
        let comparisons: Vec<String> = metric
            .comparisons()
            .map(|(name, value)| format!("{name}\u{a0}{}", format_value(value)))
            .collect();
        if !comparisons.is_empty() {
            add!(html, "<p class=\"beside\">{}</p>", comparisons.join(" · "));
        }
        add!(html, "<p>{}</p></article>", escape(&metric.explanation));
    }
    if html.is_empty() {
        html
    } else {
        format!("<div class=\"cards\">{html}</div>")
    }
}

/// Draws the value of a metric as a bar, with marks at the values to compare with. The bar is hidden from screen readers, since
/// the text beside it has the same values.
fn bar_html(metric: &Metric) -> String {
    let position = |fraction: f64| {
        if fraction.is_finite() {
            fraction.clamp(0.0, 1.0) * 100.0
        } else {
            0.0
        }
    };
    let mut html =
        String::from("<svg class=\"bar\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    add!(html, "<rect class=\"rail\" y=\"1.5\" width=\"100\" height=\"3\"/>");
    add!(
        html,
        "<rect class=\"fill\" y=\"1.5\" width=\"{:.1}\" height=\"3\"/>",
        position(metric.value)
    );
    for (_, mark) in metric.comparisons() {
        add!(
            html,
            "<rect class=\"mark\" x=\"{:.1}\" width=\"0.8\" height=\"6\"/>",
            position(mark).min(99.2)
        );
    }
    html.push_str("</svg>");
    html
}

fn curves_html(data: &ReportData) -> String {
    let figures: String = data
        .charts
        .iter()
        .enumerate()
        .map(|(id, chart)| chart::figure(chart, id))
        .collect();
    if figures.is_empty() {
        figures
    } else {
        format!("<div class=\"charts\">{figures}</div>")
    }
}

/// Renders the first example, and further ones as long as they fit into `budget` bytes. Subtracts the used bytes from `budget`.
/// Adds a note that counts the omitted examples.
fn examples_html<T>(
    items: &[T],
    class: &str,
    budget: &mut usize,
    render_item: impl Fn(&T) -> Result<String>,
) -> Result<String> {
    let mut html = String::new();
    let mut shown = 0;
    for item in items {
        let example = render_item(item)?;
        if example.len() > *budget && shown > 0 {
            break;
        }
        *budget = budget.saturating_sub(example.len());
        html.push_str(&example);
        shown += 1;
    }
    if shown == 0 {
        return Ok(html);
    }
    let mut section = format!("<div class=\"examples {class}\">{html}</div>");
    match items.len() - shown {
        0 => {}
        1 => section.push_str("<p class=\"note\">One more example was left out to keep this page small.</p>"),
        more => add!(
            section,
            "<p class=\"note\">{more} more examples were left out to keep this page small.</p>"
        ),
    }
    Ok(section)
}

fn answer_html(example: &AnswerExample) -> Result<String> {
    let mut html = String::from("<article class=\"card split\"><div>");
    for image in &example.images {
        html.push_str(&images::img(image, "The image of the example")?);
    }
    add!(html, "</div><div><p class=\"caption\">{}</p><p>", escape(&example.text));
    for (rank, (prediction, probability)) in example.predictions.iter().take(MAX_PREDICTIONS).enumerate() {
        let class = if rank == 0 { "guess first" } else { "guess" };
        let prediction = escape(prediction);
        add!(
            html,
            "<span class=\"{class}\">{prediction} <small>{}</small></span> ",
            percent(*probability)
        );
    }
    html.push_str("</p>");
    if !example.truth.is_empty() {
        let first = example.predictions.first().map(|(prediction, _)| prediction);
        let is_correct = first.is_some_and(|first| example.truth.contains(first));
        let class = if is_correct { "yes" } else { "no" };
        add!(
            html,
            "<p>Correct: <span class=\"{class}\">{}</span></p>",
            escape(&example.truth.join(", "))
        );
    }
    html.push_str("</div></article>");
    Ok(html)
}

fn masked_caption_html(example: &MaskedCaption) -> Result<String> {
    let masked: Vec<_> = example
        .tokens
        .iter()
        .filter_map(|token| match token {
            Token::Masked { truth, predictions } => Some((truth, predictions)),
            Token::Visible(_) => None,
        })
        .collect();
    let mut mask_number = 0;
    let tokens = example.tokens.iter().map(|token| match token {
        Token::Visible(text) | Token::Masked { truth: text, .. } => text.as_str(),
    });
    let caption = join_tokens(tokens, |index, text| match &example.tokens[index] {
        Token::Visible(_) => escape(text),
        Token::Masked { .. } => {
            mask_number += 1;
            format!("<span class=\"blank\">{mask_number}<span class=\"unseen\"> masked</span></span>")
        }
    });
    let mut html = String::from("<article class=\"card split\">");
    html.push_str(&images::img(&example.image, "The image of the caption")?);
    add!(
        html,
        "<div><p class=\"caption\">{caption}</p><table><thead><tr><th scope=\"col\">Mask</th>"
    );
    html.push_str("<th scope=\"col\">Predictions</th><th scope=\"col\">Caption</th></tr></thead><tbody>");
    for (index, (truth, predictions)) in masked.iter().enumerate() {
        let is_correct = predictions.first().is_some_and(|(prediction, _)| prediction == *truth);
        add!(html, "<tr><td>{}</td><td>", index + 1);
        for (rank, (prediction, probability)) in predictions.iter().take(MAX_PREDICTIONS).enumerate() {
            let class = if rank == 0 { "guess first" } else { "guess" };
            add!(
                html,
                "<span class=\"{class}\">{} <small>{}</small></span> ",
                escape(prediction),
                percent(*probability)
            );
        }
        add!(
            html,
            "</td><td>{}\u{a0}{}</td></tr>",
            check_or_cross(is_correct),
            escape(truth)
        );
    }
    html.push_str("</tbody></table></div></article>");
    Ok(html)
}

/// Returns a check mark or a cross, with a text for screen readers.
fn check_or_cross(is_correct: bool) -> &'static str {
    if is_correct {
        "<span class=\"yes\"><span aria-hidden=\"true\">✓</span><span class=\"unseen\">right:</span></span>"
    } else {
        "<span class=\"no\"><span aria-hidden=\"true\">✗</span><span class=\"unseen\">wrong:</span></span>"
    }
}

fn heat_map_html(heat: &HeatMap) -> Result<String> {
    let Some(word) = heat.tokens.get(heat.word) else {
        let (word, count) = (heat.word, heat.tokens.len());
        return Err(ReportError::Invalid(format!(
            "a heat map is for word {word} of a caption of {count} words"
        )));
    };
    let caption = join_tokens(heat.tokens.iter().map(String::as_str), |index, text| {
        if index == heat.word {
            format!("<mark>{}</mark>", escape(text))
        } else {
            escape(text)
        }
    });
    let alt = format!(
        "The image, bright where the model aligns it with the word {}",
        escape(word)
    );
    let mut html = String::from("<figure class=\"card\"><div class=\"row\">");
    html.push_str(&images::img(&heat.image, "The original image")?);
    html.push_str(&images::img(&images::apply_heat_map(heat)?, &alt)?);
    add!(
        html,
        "</div><figcaption class=\"caption\">{caption}</figcaption></figure>"
    );
    Ok(html)
}

fn reconstruction_html(example: &Reconstruction) -> Result<String> {
    let mut html = String::from("<figure class=\"card\"><div class=\"row\">");
    let parts = [
        (&example.masked, "Input", "The image with masked patches"),
        (
            &example.reconstruction,
            "Reconstruction",
            "The image with reconstructed patches",
        ),
        (&example.original, "Original", "The original image"),
    ];
    for (image, name, alt) in parts {
        add!(html, "<div>{}<small>{name}</small></div>", images::img(image, alt)?);
    }
    add!(
        html,
        "</div><figcaption class=\"caption\">{}</figcaption></figure>",
        escape(&example.caption)
    );
    Ok(html)
}

fn retrieval_html(example: &Retrieval) -> Result<String> {
    let mut html = String::from("<figure class=\"card\">");
    add!(html, "<figcaption class=\"caption\">“{}”", escape(&example.query));
    let (rank, candidates) = (example.own_rank, example.candidates);
    add!(
        html,
        "<small>Rank of the caption's own image: {rank} of {candidates}.</small></figcaption><ol class=\"row\">"
    );
    for hit in &example.top {
        let (class, alt) = if hit.is_own {
            (" class=\"right\"", "The caption's own image")
        } else {
            ("", "Another image")
        };
        let sign = if hit.is_own { check_or_cross(true) } else { "" };
        add!(
            html,
            "<li{class}>{}<small>{sign} score {}</small></li>",
            images::img(&hit.image, alt)?,
            number(hit.score)
        );
    }
    html.push_str("</ol></figure>");
    Ok(html)
}

fn data_and_run_html(data: &ReportData) -> String {
    let mut html = String::new();
    if !data.dataset.is_empty() {
        html.push_str("<article class=\"card\"><h3>Data</h3><dl>");
        for (name, fact) in &data.dataset {
            add!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(fact));
        }
        html.push_str("</dl></article>");
    }
    if !data.timings.is_empty() {
        let total = data.total_time();
        html.push_str("<article class=\"card\"><h3>Time</h3><dl>");
        for (name, time) in &data.timings {
            add!(html, "<div><dt>{}</dt><dd>{}", escape(name), duration(*time));
            let share = if total > 0.0 {
                (time / total * 100.0).clamp(0.0, 100.0)
            } else {
                0.0
            };
            html.push_str(
                "<svg class=\"bar\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
            );
            add!(
                html,
                "<rect class=\"fill\" y=\"1.5\" width=\"{share:.1}\" height=\"3\"/></svg></dd></div>"
            );
        }
        add!(
            html,
            "<div><dt>Total</dt><dd>{}</dd></div></dl></article>",
            duration(total)
        );
    }
    if !data.config.is_empty() {
        html.push_str("<details class=\"card\"><summary>Configuration</summary>");
        add!(html, "<pre tabindex=\"0\">{}</pre></details>", escape(&data.config));
    }
    if html.is_empty() {
        html
    } else {
        format!("<div class=\"examples wide\">{html}</div>")
    }
}
