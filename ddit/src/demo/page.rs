//! The demonstration's page: one HTML file with everything inside, pictures as `data:` URIs.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::unmasking::Step;

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
    /// What some steps on the way expected it to be: noise level σ, and a picture as PNG.
    pub frames: Vec<(f32, Vec<u8>)>,
    /// What the judge finds in its pixels.
    pub sees: String,
    /// Why it is not what the prompt demands; `None` if it is.
    pub wrong: Option<String>,
    /// The model's own caption of it.
    pub caption: String,
    /// Why that caption is not true of the pixels; `None` if it is.
    pub caption_wrong: Option<String>,
    /// What was asked about it; nothing if the judge does not know every object in it.
    pub turns: Vec<Answered>,
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

/// One text on its way from masks to words.
pub struct Unmasking {
    /// The picture it describes, as PNG.
    pub png: Vec<u8>,
    /// The tokens after so many steps.
    pub steps: Vec<Step>,
}

/// Everything the page shows.
pub struct Page {
    /// One line about the model: parameters, where it comes from.
    pub model: String,
    /// One line about this run: threads, seconds, commit.
    pub run: String,
    /// Pictures, grouped by kind in this order.
    pub drawn: Vec<Drawn>,
    /// Questions about scenes of the world, and answers.
    pub dialogues: Vec<Dialogue>,
    /// A caption being unmasked.
    pub unmasking: Unmasking,
}

impl Page {
    /// What was counted: what it is, how many are right, and of how many.
    pub fn scores(&self) -> [(&'static str, usize, usize); 4] {
        let drawn = |what, is_right: fn(&&Drawn) -> bool| {
            (what, self.drawn.iter().filter(is_right).count(), self.drawn.len())
        };
        let answered = |what, turns: Vec<&Answered>| {
            (what, turns.iter().filter(|turn| turn.is_right()).count(), turns.len())
        };
        [
            drawn("pictures show what was asked for", |drawn| drawn.wrong.is_none()),
            drawn("captions of them are true", |drawn| drawn.caption_wrong.is_none()),
            answered(
                "answers about them are right",
                self.drawn.iter().flat_map(|d| &d.turns).collect(),
            ),
            answered(
                "answers about other scenes are right",
                self.dialogues.iter().flat_map(|d| &d.turns).collect(),
            ),
        ]
    }

    /// The page as text.
    pub fn to_html(&self) -> String {
        let mut html = String::from(HEAD);
        self.summary(&mut html);
        self.drawings(&mut html);
        self.denoising(&mut html);
        self.unmasking(&mut html);
        self.dialogues(&mut html);
        html.push_str(FOOT);
        html
    }

    fn summary(&self, html: &mut String) {
        html.push_str("<div class=scores>");
        for (what, right, total) in self.scores() {
            put(html, format_args!("<div><b>{right} of {total}</b>{what}</div>"));
        }
        let (model, run) = (escape(&self.model), escape(&self.run));
        put(html, format_args!("</div><p class=soft>{model}; {run}</p>"));
    }

    fn drawings(&self, html: &mut String) {
        html.push_str(
            "<h2>From words to a picture, and back to words</h2><p>Above each picture is its \
             prompt; below it is what the model expected it to become on the way from noise. Then \
             come the verdict on its pixels, the model's own caption of what it drew, and its \
             answers to questions about it.</p>",
        );
        for group in self.drawn.chunk_by(|a, b| a.kind == b.kind) {
            put(html, format_args!("<h3>{}</h3><div class=grid>", group[0].kind.replace('_', " ")));
            for drawn in group {
                drawn.card(html);
            }
            html.push_str("</div>");
        }
    }

    /// The steps of one picture: the last that is right, since the last kinds show most.
    fn denoising(&self, html: &mut String) {
        let right = self.drawn.iter().rfind(|drawn| drawn.wrong.is_none());
        let Some(drawn) = right.or(self.drawn.last()) else { return };
        put(
            html,
            format_args!(
                "<h2>One picture, step by step</h2><p>“{}”. A picture starts as noise of level \
                 σ = 1 and follows the velocity that the model predicts; at each level that \
                 velocity points at a finished picture.</p><div class=strip>",
                escape(&drawn.prompt)
            ),
        );
        for (sigma, png) in &drawn.frames {
            let (image, label) = frame(*sigma, png);
            put(html, format_args!("<figure>{image}<figcaption>{label}</figcaption></figure>"));
        }
        html.push_str("</div>");
    }

    fn dialogues(&self, html: &mut String) {
        html.push_str(
            "<h2>Questions about other scenes</h2><p>These pictures are the world's own. The \
             question is given, the answer is masked; the model fills it in while looking at the \
             picture.</p><div class=grid>",
        );
        for dialogue in &self.dialogues {
            put(html, format_args!("<div class=card>{}<ul>", img(&dialogue.png, "a scene")));
            dialogue.turns.iter().for_each(|turn| turn.line(html));
            html.push_str("</ul></div>");
        }
        html.push_str("</div>");
    }

    fn unmasking(&self, html: &mut String) {
        put(
            html,
            format_args!(
                "<h2>One caption, token by token</h2><p>A text starts as masks. Each step reveals \
                 some of them, by what the model predicts of the picture and of all tokens so far. \
                 &lt;/s&gt; ends the text; steps that found nothing but padding behind it are not \
                 shown.</p><div class=unmask>{}<table>",
                img(&self.unmasking.png, "the captioned scene")
            ),
        );
        let mut before: &[Option<String>] = &[];
        for (step, tokens) in &self.unmasking.steps {
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
        let shows = self.wrong.as_deref().unwrap_or("as asked for");
        let caption = self.caption_wrong.as_deref().map_or(String::new(), |why| format!(": {why}"));
        let frames: String = self.frames.iter().map(|(sigma, png)| frame(*sigma, png).0).collect();
        put(
            html,
            format_args!(
                "<div class=card title=\"seed {}; the judge sees {}\"><b>{}</b>{}\
                 <div class=frames>{frames}</div><ul><li>{} {}</li><li>{} “{}”{}</li>",
                self.seed,
                escape(&self.sees),
                escape(&self.prompt),
                img(&self.png, &self.prompt),
                badge(self.wrong.is_none()),
                escape(shows),
                badge(self.caption_wrong.is_none()),
                escape(&self.caption),
                escape(&caption)
            ),
        );
        self.turns.iter().for_each(|turn| turn.line(html));
        if self.turns.is_empty() {
            html.push_str("<li class=soft>not asked: the judge does not know every object</li>");
        }
        html.push_str("</ul></div>");
    }
}

impl Answered {
    fn line(&self, html: &mut String) {
        let answer = if self.answer.is_empty() { "(nothing)" } else { &self.answer };
        let correction = match self.is_right() {
            true => String::new(),
            false => format!(" (it is {})", self.right),
        };
        put(
            html,
            format_args!(
                "<li>{} {} <em>{}</em>{}</li>",
                badge(self.is_right()),
                escape(&self.question),
                escape(answer),
                escape(&correction)
            ),
        );
    }
}

/// A picture seen from a noise level, and what to write below it.
fn frame(sigma: f32, png: &[u8]) -> (String, String) {
    let label = format!("σ = {sigma:.2}");
    (img(png, &label), label)
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("writing to a string cannot fail");
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
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
h3{margin:1.2rem 0 .4rem;font-weight:600}p{max-width:48rem}
.lead{font-size:1.1rem;margin-top:0}.soft{opacity:.7;font-size:.9rem}
.scores{display:flex;flex-wrap:wrap;gap:1rem}
.scores div{flex:1 1 12rem;padding:.8rem 1rem;border:1px solid var(--line);border-radius:.6rem}
.scores b{display:block;font-size:1.6rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(13.5rem,1fr));gap:1rem}
.card{border:1px solid var(--line);border-radius:.6rem;padding:.8rem;font-size:.9rem;line-height:1.35}
.card b{display:block;margin-bottom:.4rem}
img{width:100%;image-rendering:pixelated;border-radius:.3rem;display:block}
.frames{display:grid;grid-template-columns:repeat(10,1fr);gap:.15rem;margin-top:.3rem}
.frames img{border-radius:.1rem;transition:transform .1s}
.frames img:hover{transform:scale(5);position:relative;z-index:1}
ul{list-style:none;margin:.5rem 0 0;padding:0}li{margin-top:.25rem}em{font-style:normal;font-weight:700}
.strip{display:flex;flex-wrap:wrap;gap:.5rem}figure{margin:0;width:6.4rem;font-size:.8rem}
.unmask{display:flex;flex-wrap:wrap;gap:1rem;align-items:start}.unmask img{width:10rem}
table{border-collapse:collapse;font:14px/1.4 ui-monospace,monospace}
td,th{padding:.05rem .45rem;border-bottom:1px solid var(--line)}th{opacity:.5;font-weight:400}
.mask{opacity:.35;text-align:center}.new{background:#fd08;font-weight:700}
i{font-style:normal;font-weight:700}.yes{color:#1a8f3c}.no{color:#c22}
</style><h1>Dual Diffusion Transformer</h1><p class=lead>One network draws pictures of sentences, \
says what pictures show, and answers questions about them: noise becomes a picture, masks become \
words. All of this was made just now, and judged by the pixels alone.</p>";

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
            frames: vec![(1.0, png()), (0.5, png())],
            sees: "nothing".into(),
            wrong: wrong.map(str::to_owned),
            caption: "a circle".into(),
            caption_wrong: None,
            turns: Vec::new(),
        };
        let turn = |answer: &str| Answered {
            question: "what color is the circle?".into(),
            answer: answer.into(),
            right: "red".into(),
        };
        let page = Page {
            model: "a model".into(),
            run: "2 threads".into(),
            drawn: vec![
                Drawn { turns: vec![turn("red"), turn("")], ..drawn(None) },
                drawn(Some("it speaks of 2 objects")),
            ],
            dialogues: vec![Dialogue { png: png(), turns: vec![turn("<s>")] }],
            unmasking: Unmasking {
                png: png(),
                steps: vec![(0, vec![None, None]), (7, vec![Some("a".into()), None])],
            },
        };
        let html = page.to_html();
        assert!(html.contains("a &lt;circle&gt; &amp; a &quot;square&quot;"));
        for score in ["1 of 2</b>pictures", "2 of 2</b>captions", "1 of 2</b>answers about them"] {
            assert!(html.contains(score), "{score}");
        }
        assert!(html.contains("0 of 1</b>answers about other") && html.contains("two object"));
        assert!(html.contains("<em>(nothing)</em> (it is red)") && html.contains("&lt;s&gt;"));
        assert_eq!(html.matches("not asked").count(), 1);
        assert!(html.contains("<tr><th>7</th>"));
        assert!(html.contains("<td class=new>a</td><td class=mask>·</td>"));
        assert_eq!(html.matches("data:image/png;base64,AQID").count(), 2 * 3 + 2 + 1 + 1);
        assert!(!html.contains("http") && !html.contains("<script"));
    }
}
