//! The demonstration's page: one HTML file with everything inside, pictures as `data:` URIs.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One picture that the model drew, and what became of it.
pub struct Drawn {
    /// GenEval's name of the prompt's kind.
    pub kind: &'static str,
    /// The prompt.
    pub prompt: String,
    /// The seed that gives this picture again.
    pub seed: u64,
    /// The picture, as PNG.
    pub png: Vec<u8>,
    /// What the judge finds in its pixels.
    pub sees: String,
    /// Why it is not what the prompt demands; `None` if it is.
    pub wrong: Option<String>,
    /// The model's own caption of it.
    pub caption: String,
    /// Why that caption is not true of the pixels; `None` if it is.
    pub caption_wrong: Option<String>,
}

/// A question about a picture, as asked and answered.
pub struct Answered {
    /// The question.
    pub question: String,
    /// The model's answer.
    pub answer: String,
    /// The right one.
    pub right: String,
}

impl Answered {
    /// Whether the answer is the right one.
    pub fn is_right(&self) -> bool {
        self.answer == self.right
    }
}

/// A scene, its picture, and the questions asked about it.
pub struct Dialogue {
    /// The picture, as PNG.
    pub png: Vec<u8>,
    /// What was asked.
    pub turns: Vec<Answered>,
}

/// One text on its way from masks to words: the tokens after each step.
pub struct Unmasking {
    /// The picture it describes, as PNG.
    pub png: Vec<u8>,
    /// For each step, each token's text; `None` where it is still masked.
    pub steps: Vec<Vec<Option<String>>>,
}

/// One picture on its way from noise: what the model expects at the end, seen at some steps.
pub struct Denoising {
    /// The prompt.
    pub prompt: String,
    /// (noise level σ, the picture expected from there, as PNG)
    pub frames: Vec<(f32, Vec<u8>)>,
}

/// Everything the page shows.
pub struct Page {
    /// One line about the model: parameters, where it comes from.
    pub model: String,
    /// One line about this run: threads, seconds, commit.
    pub run: String,
    /// Pictures, grouped by kind in this order.
    pub drawn: Vec<Drawn>,
    /// One picture being denoised.
    pub denoising: Denoising,
    /// Questions and answers.
    pub dialogues: Vec<Dialogue>,
    /// A caption being unmasked.
    pub unmasking: Unmasking,
}

impl Page {
    /// Questions that were asked, with their answers.
    pub fn turns(&self) -> impl Iterator<Item = &Answered> {
        self.dialogues.iter().flat_map(|dialogue| &dialogue.turns)
    }

    /// The page as text.
    pub fn to_html(&self) -> String {
        let mut html = String::from(HEAD);
        self.summary(&mut html);
        self.drawings(&mut html);
        self.denoising(&mut html);
        self.dialogues(&mut html);
        self.unmasking(&mut html);
        html.push_str(FOOT);
        html
    }

    fn summary(&self, html: &mut String) {
        let right = self.drawn.iter().filter(|d| d.wrong.is_none()).count();
        let told = self.drawn.iter().filter(|d| d.caption_wrong.is_none()).count();
        let answered = self.turns().filter(|turn| turn.is_right()).count();
        put(
            html,
            format_args!(
                "<p class=lead>{}</p><div class=scores>{}{}{}</div><p class=run>{}</p>",
                escape(&self.model),
                score("pictures show what was asked", right, self.drawn.len()),
                score("captions of them are true", told, self.drawn.len()),
                score("answers are right", answered, self.turns().count()),
                escape(&self.run)
            ),
        );
    }

    fn drawings(&self, html: &mut String) {
        html.push_str(
            "<h2>From words to pictures</h2><p>Each picture starts as noise and follows the \
             velocity that the model predicts for its prompt. The badge is a verdict on the pixels \
             alone; below it is the model's own caption of what it drew.</p>",
        );
        for group in self.drawn.chunk_by(|a, b| a.kind == b.kind) {
            put(html, format_args!("<h3>{}</h3><div class=grid>", group[0].kind.replace('_', " ")));
            for drawn in group {
                drawn.card(html);
            }
            html.push_str("</div>");
        }
    }

    fn denoising(&self, html: &mut String) {
        put(
            html,
            format_args!(
                "<h2>One picture, step by step</h2><p>“{}”: what the model expects the finished \
                 picture to be, seen from noise level σ.</p><div class=strip>",
                escape(&self.denoising.prompt)
            ),
        );
        for (sigma, png) in &self.denoising.frames {
            let label = format!("σ = {sigma:.2}");
            put(
                html,
                format_args!(
                    "<figure>{}<figcaption>{label}</figcaption></figure>",
                    img(png, &label)
                ),
            );
        }
        html.push_str("</div>");
    }

    fn dialogues(&self, html: &mut String) {
        html.push_str(
            "<h2>Questions, answered by infilling</h2><p>The question is given, the answer is \
             masked; the model fills it in while looking at the picture.</p><div class=grid>",
        );
        for dialogue in &self.dialogues {
            put(html, format_args!("<div class=card>{}<dl>", img(&dialogue.png, "a scene")));
            for turn in &dialogue.turns {
                let is_right = turn.is_right();
                let note =
                    if is_right { String::new() } else { format!(" (it is {})", turn.right) };
                put(
                    html,
                    format_args!(
                        "<dt>{}</dt><dd>{} {}{}</dd>",
                        escape(&turn.question),
                        badge(is_right),
                        escape(&turn.answer),
                        escape(&note)
                    ),
                );
            }
            html.push_str("</dl></div>");
        }
        html.push_str("</div>");
    }

    fn unmasking(&self, html: &mut String) {
        put(
            html,
            format_args!(
                "<h2>A caption, unmasked</h2><p>Text starts as masks. In each step every masked \
                 token is revealed with a certain probability; what it becomes is drawn from the \
                 model's prediction given the picture and all tokens so far.</p>\
                 <div class=unmask>{}<table>",
                img(&self.unmasking.png, "the captioned scene")
            ),
        );
        let mut before: &[Option<String>] = &[];
        for (step, tokens) in self.unmasking.steps.iter().enumerate() {
            put(html, format_args!("<tr><th>{step}</th>"));
            for (i, token) in tokens.iter().enumerate() {
                let was_masked = before.get(i).is_none_or(Option::is_none);
                match token {
                    None => html.push_str("<td class=mask>·</td>"),
                    Some(word) => {
                        let class = if was_masked { " class=new" } else { "" };
                        put(html, format_args!("<td{class}>{}</td>", escape(word)));
                    }
                }
            }
            html.push_str("</tr>");
            before = tokens;
        }
        html.push_str("</table></div>");
    }
}

impl Drawn {
    fn card(&self, html: &mut String) {
        let verdict = self.wrong.as_deref().map_or(String::new(), |why| format!(": {why}"));
        let caption = self.caption_wrong.as_deref().map_or(String::new(), |why| format!(": {why}"));
        put(
            html,
            format_args!(
                "<div class=card title=\"seed {}; the judge sees {}\">{}<b>{}</b>\
                 <span>{} drawn{}</span><span>{} “{}”{}</span></div>",
                self.seed,
                escape(&self.sees),
                img(&self.png, &self.prompt),
                escape(&self.prompt),
                badge(self.wrong.is_none()),
                escape(&verdict),
                badge(self.caption_wrong.is_none()),
                escape(&self.caption),
                escape(&caption)
            ),
        );
    }
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("writing to a string cannot fail");
}

fn score(what: &str, right: usize, total: usize) -> String {
    format!("<div><b>{right} of {total}</b>{what}</div>")
}

fn badge(is_right: bool) -> &'static str {
    if is_right { "<i class=yes>✓</i>" } else { "<i class=no>✗</i>" }
}

fn img(png: &[u8], alt: &str) -> String {
    format!("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escape(alt), STANDARD.encode(png))
}

/// Text as HTML shows it, in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content=\"width=device-width\"><title>Dual Diffusion Transformer</title><style>
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
h3{margin:1.2rem 0 .4rem;font-weight:600}
.lead{font-size:1.1rem;margin-top:0}.run{opacity:.7;font-size:.9rem}
.scores{display:flex;flex-wrap:wrap;gap:1rem}
.scores div{flex:1 1 12rem;padding:.8rem 1rem;border:1px solid var(--line);border-radius:.6rem}
.scores b{display:block;font-size:1.6rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:.8rem}
.card{border:1px solid var(--line);border-radius:.6rem;padding:.6rem;font-size:.85rem}
.card b,.card span{display:block}
img{width:100%;max-width:10rem;image-rendering:pixelated;border-radius:.3rem;display:block}
.strip{display:flex;flex-wrap:wrap;gap:.5rem}figure{margin:0;width:7rem;font-size:.8rem}
.unmask{display:flex;flex-wrap:wrap;gap:1rem;align-items:start}
.unmask img{width:10rem}.unmask table{border-collapse:collapse;font:14px/1.4 ui-monospace,monospace}
td,th{padding:.05rem .45rem;border-bottom:1px solid var(--line)}th{opacity:.5;font-weight:400}
.mask{opacity:.35;text-align:center}.new{background:#fd08;font-weight:700}
i{font-style:normal;font-weight:700}.yes{color:#1a8f3c}.no{color:#c22}
dl{margin:.4rem 0 0}dt{margin-top:.3rem}dd{margin:0 0 0 .8rem}
</style><h1>Dual Diffusion Transformer</h1>";

const FOOT: &str = "<h2>How this was judged</h2><p>Every scene of this small world can be read \
back from its pixels: connected regions, their palette colour, and the template of form and size that \
explains them best. No network takes part in any verdict, and each picture can be drawn again from \
its seed. Hold the pointer over a picture for its seed and for what the judge sees.</p></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_everything_and_refers_to_nothing() {
        let png = || vec![1, 2, 3];
        let drawn = |wrong: Option<&str>| Drawn {
            kind: "two_object",
            prompt: "a <circle> & a \"square\"".into(),
            seed: 7,
            png: png(),
            sees: "nothing".into(),
            wrong: wrong.map(str::to_owned),
            caption: "a circle".into(),
            caption_wrong: None,
        };
        let turn = |answer: &str| Answered {
            question: "what color is the circle?".into(),
            answer: answer.into(),
            right: "red".into(),
        };
        let page = Page {
            model: "a model".into(),
            run: "2 threads".into(),
            drawn: vec![drawn(None), drawn(Some("it speaks of 2 objects"))],
            denoising: Denoising { prompt: "a circle".into(), frames: vec![(0.5, png())] },
            dialogues: vec![Dialogue { png: png(), turns: vec![turn("red"), turn("blue")] }],
            unmasking: Unmasking {
                png: png(),
                steps: vec![vec![None, None], vec![Some("a".into()), None]],
            },
        };
        let html = page.to_html();
        assert!(html.contains("a &lt;circle&gt; &amp; a &quot;square&quot;"));
        assert!(html.contains("<b>1 of 2</b>pictures") && html.contains("<b>1 of 2</b>answers"));
        assert!(html.contains("two object") && html.contains("(it is red)"));
        assert!(html.contains("<td class=new>a</td><td class=mask>·</td>"));
        assert_eq!(html.matches("data:image/png;base64,AQID").count(), 5);
        assert!(!html.contains("http") && !html.contains("<script"));
    }
}
