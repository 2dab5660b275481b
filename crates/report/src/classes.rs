//! The section of an image classifier's classes: their accuracies, and which classes are taken for which.

use vlct_tasks::confusion::{ClassResult, Confusion, Mistake};
use vlct_util::text::counted;

use super::html::{add, escape, percent};

/// Largest number of classes whose confusion matrix is shown, and number of classes that are listed.
const SHOWN_CLASSES: usize = 50;
/// Number of mistakes that are listed if the matrix is not shown.
const SHOWN_MISTAKES: usize = 20;

/// Returns the accuracies of the worst classes, and the confusion matrix or, with many classes, the most frequent mistakes; empty if there
/// are no images.
pub(super) fn classes_html(confusion: &Confusion) -> String {
    let classes = confusion.worst_classes();
    if classes.is_empty() {
        return String::new();
    }
    let mistakes = confusion.mistakes();
    let mut html = String::from("<div class=\"examples full\">");
    html.push_str(&accuracies_html(confusion, &classes, &mistakes));
    match confusion.names().len() {
        count if count <= SHOWN_CLASSES => html.push_str(&matrix_html(confusion)),
        _ => html.push_str(&mistakes_html(confusion, &mistakes)),
    }
    html.push_str("</div>");
    html
}

fn accuracies_html(confusion: &Confusion, classes: &[ClassResult], mistakes: &[Mistake]) -> String {
    let mut html = String::from("<article class=\"card\"><h3>Accuracy of each class</h3><table><thead><tr>");
    for column in ["Class", "Images", "Accuracy", "Most often taken for"] {
        add!(html, "<th scope=\"col\">{column}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for result in classes.iter().take(SHOWN_CLASSES) {
        add!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>",
            escape(confusion.name(result.class)),
            result.images,
            percent(result.accuracy())
        );
        // The mistakes are sorted by their number.
        if let Some(mistake) = mistakes.iter().find(|mistake| mistake.class == result.class) {
            let name = escape(confusion.name(mistake.predicted));
            add!(html, "{name} <small>{}</small>", counted(mistake.images, "image"));
        }
        html.push_str("</td></tr>");
    }
    html.push_str("</tbody></table>");
    if classes.len() > SHOWN_CLASSES {
        let more = counted(classes.len() - SHOWN_CLASSES, "more class");
        add!(html, "<p class=\"note\">{more} with higher accuracies.</p>");
    }
    html.push_str("</article>");
    html
}

/// Returns the matrix as a table, in which a cell's colour is its part of the row.
fn matrix_html(confusion: &Confusion) -> String {
    let mut html = String::from("<article class=\"card\"><h3>Confusion matrix</h3>");
    html.push_str(
        "<p>Rows are classes, columns predicted classes with the numbers of the rows; cells are numbers of images.</p>",
    );
    html.push_str("<div class=\"scroll\" tabindex=\"0\"><table class=\"matrix\"><thead><tr><td></td>");
    let ids = || 0..confusion.names().len() as u32;
    for predicted in ids() {
        let name = escape(confusion.name(predicted));
        add!(html, "<th scope=\"col\" title=\"{name}\">{}</th>", predicted + 1);
    }
    html.push_str("</tr></thead><tbody>");
    for class in ids() {
        let name = escape(confusion.name(class));
        add!(html, "<tr><th scope=\"row\">{}\u{a0}{name}</th>", class + 1);
        let images: u64 = ids().map(|predicted| confusion.images(class, predicted)).sum();
        for predicted in ids() {
            let own = if class == predicted { " class=\"own\"" } else { "" };
            match confusion.images(class, predicted) {
                0 => add!(html, "<td{own}></td>"),
                count => {
                    let share = 100 * count / images;
                    add!(html, "<td{own} style=\"--share:{share}%\">{count}</td>");
                }
            }
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div></article>");
    html
}

fn mistakes_html(confusion: &Confusion, mistakes: &[Mistake]) -> String {
    if mistakes.is_empty() {
        return String::new();
    }
    let mut html = String::from("<article class=\"card\"><h3>Most frequent mistakes</h3><table><thead><tr>");
    for column in ["Class", "Predicted", "Images"] {
        add!(html, "<th scope=\"col\">{column}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for mistake in mistakes.iter().take(SHOWN_MISTAKES) {
        add!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(confusion.name(mistake.class)),
            escape(confusion.name(mistake.predicted)),
            mistake.images
        );
    }
    html.push_str("</tbody></table></article>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(classes: u32) -> Confusion {
        let names = (0..classes).map(|class| format!("<{class}>")).collect();
        // The images of class `n` are right except `n` of ten.
        let image = |class: u32, i: u32| match i < class % 10 {
            true => (class, (class + 1) % classes),
            false => (class, class),
        };
        Confusion::new(
            names,
            (0..classes).flat_map(|class| (0..10).map(move |i| image(class, i))),
        )
    }

    #[test]
    fn few_classes_have_a_matrix_with_escaped_names() {
        let html = classes_html(&confusion(4));
        let worst = html.find("<td>&lt;3&gt;</td><td>10</td><td>70.0\u{a0}%</td><td>&lt;0&gt; <small>3 images</small>");
        let best = html.find("<td>&lt;0&gt;</td><td>10</td><td>100.0\u{a0}%</td><td></td>");
        assert!(worst.is_some() && worst < best, "{html}");
        assert!(
            html.contains("<td class=\"own\" style=\"--share:80%\">8</td><td style=\"--share:20%\">2</td>"),
            "{html}"
        );
        assert!(!html.contains("<3>"), "{html}");
    }

    #[test]
    fn many_classes_have_the_most_frequent_mistakes() {
        let html = classes_html(&confusion(1000));
        assert!(
            html.contains("Most frequent mistakes") && !html.contains("matrix"),
            "{html}"
        );
        assert!(
            html.contains("<td>&lt;9&gt;</td><td>&lt;10&gt;</td><td>9</td>"),
            "{html}"
        );
        assert!(html.contains("950 more classes with higher accuracies"), "{html}");
        assert!(html.len() < 20_000);
        assert!(classes_html(&Confusion::new(Vec::new(), [])).is_empty());
    }
}
