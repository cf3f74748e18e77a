//! One self-contained HTML page: style, script, pictures and curves are inside, and its content policy forbids the browser to fetch anything.

use std::fmt::Write;

/// Builds a page from top to bottom. All text is escaped; charts come as SVG from [`super::chart`], pictures as PNG bytes.
pub struct Page {
    title: String,
    subtitle: String,
    sections: Vec<(String, String)>,
    body: String,
}

/// One big number.
pub struct Card<'a> {
    pub label: &'a str,
    pub value: String,
    /// What it is compared with, in a few words.
    pub note: String,
    pub tone: Tone,
}

/// Is a number what was wanted?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
}

/// A table; a click on a heading sorts it.
pub struct Table<'a> {
    pub caption: &'a str,
    pub columns: &'a [&'a str],
    pub rows: Vec<Vec<Cell>>,
}

/// One cell.
pub enum Cell {
    Text(String),
    /// A value and the digits after its point.
    Number(f64, usize),
    /// A fraction shown in per cent, and the digits after its point.
    Percent(f64, usize),
    /// Not measured; sorts after everything else.
    Missing,
}

/// A picture with its caption.
pub enum Figure<'a> {
    Svg {
        svg: String,
        caption: &'a str,
    },
    Png {
        png: &'a [u8],
        caption: &'a str,
        alt: &'a str,
    },
    /// An animated picture.
    Gif {
        gif: &'a [u8],
        caption: &'a str,
        alt: &'a str,
    },
}

/// One case with its preview.
pub struct Case<'a> {
    pub name: &'a str,
    /// The verdict in a word or two: `2 lesions`, `no lesion`, `failed`.
    pub verdict: String,
    pub tone: Tone,
    /// Facts in a line: `("Dice", "0.81")`.
    pub facts: Vec<(&'a str, String)>,
    /// A PNG, or `None` where there is nothing to see (a failed case).
    pub preview: Option<&'a [u8]>,
    /// Shown without a click.
    pub open: bool,
}

/// Text made safe for HTML content and attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in a page, whatever a file is called.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Plain => "plain",
            Tone::Good => "good",
            Tone::Bad => "bad",
        }
    }
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Cell::Text(text.into())
    }

    /// A number that may not have been measured.
    pub fn number(value: Option<f64>, digits: usize) -> Self {
        value.map_or(Cell::Missing, |v| Cell::Number(v, digits))
    }

    /// A fraction that may not have been measured.
    pub fn percent(value: Option<f64>, digits: usize) -> Self {
        value.map_or(Cell::Missing, |v| Cell::Percent(v, digits))
    }

    fn html(&self) -> String {
        match self {
            Cell::Text(text) => format!("<td>{}</td>", escape(text)),
            Cell::Number(v, digits) if v.is_finite() => format!(r#"<td class="num" data-value="{v}">{v:.digits$}</td>"#),
            Cell::Percent(v, digits) if v.is_finite() => format!(r#"<td class="num" data-value="{v}">{:.digits$} %</td>"#, v * 100.0),
            Cell::Missing | Cell::Number(..) | Cell::Percent(..) => r#"<td class="num missing">–</td>"#.to_owned(),
        }
    }
}

impl Page {
    pub fn new(title: &str, subtitle: &str) -> Self {
        Page { title: title.to_owned(), subtitle: subtitle.to_owned(), sections: Vec::new(), body: String::new() }
    }

    /// Begin a section; its heading is linked from the top of the page.
    pub fn section(&mut self, heading: &str) -> &mut Self {
        let id = format!("section-{}", self.sections.len() + 1);
        self.add(format_args!("<h2 id=\"{id}\">{}</h2>\n", escape(heading)));
        self.sections.push((id, heading.to_owned()));
        self
    }

    /// Paragraphs, separated by empty lines.
    pub fn prose(&mut self, text: &str) -> &mut Self {
        for paragraph in text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
            self.add(format_args!("<p>{}</p>\n", escape(paragraph)));
        }
        self
    }

    pub fn cards(&mut self, cards: &[Card]) -> &mut Self {
        self.body.push_str("<div class=\"cards\">\n");
        for card in cards {
            let (tone, label, value, note) = (card.tone.class(), escape(card.label), escape(&card.value), escape(&card.note));
            self.add(format_args!("<div class=\"card {tone}\"><div class=\"label\">{label}</div><div class=\"value\">{value}</div><div class=\"note\">{note}</div></div>\n"));
        }
        self.body.push_str("</div>\n");
        self
    }

    pub fn table(&mut self, table: &Table) -> &mut Self {
        // A column is set like the first of its cells that was measured.
        let numeric = |c: usize| {
            let mut cells = table.rows.iter().filter_map(|r| r.get(c)).filter(|cell| !matches!(cell, Cell::Missing));
            matches!(cells.next(), Some(Cell::Number(..) | Cell::Percent(..)))
        };
        self.add(format_args!("<div class=\"scroll\"><table><caption>{}</caption><thead><tr>", escape(table.caption)));
        for (c, column) in table.columns.iter().enumerate() {
            let class = if numeric(c) { " class=\"num\"" } else { "" };
            self.add(format_args!("<th{class} scope=\"col\"><button type=\"button\">{}</button></th>", escape(column)));
        }
        self.body.push_str("</tr></thead><tbody>\n");
        for row in &table.rows {
            let cells: String = row.iter().map(Cell::html).collect();
            self.add(format_args!("<tr>{cells}</tr>\n"));
        }
        self.body.push_str("</tbody></table></div>\n");
        self
    }

    /// Figures side by side, as many as fit.
    pub fn figures(&mut self, figures: &[Figure]) -> &mut Self {
        self.body.push_str("<div class=\"figures\">\n");
        for figure in figures {
            let (picture, caption) = match figure {
                Figure::Svg { svg, caption } => (svg.clone(), caption),
                Figure::Png { png, caption, alt } => (image("png", png, alt), caption),
                Figure::Gif { gif, caption, alt } => (image("gif", gif, alt), caption),
            };
            self.add(format_args!("<figure>{picture}<figcaption>{}</figcaption></figure>\n", escape(caption)));
        }
        self.body.push_str("</div>\n");
        self
    }

    pub fn cases(&mut self, cases: &[Case]) -> &mut Self {
        for case in cases {
            let open = if case.open { " open=\"\"" } else { "" };
            let facts: String =
                case.facts.iter().map(|(k, v)| format!("<span class=\"fact\">{} <b>{}</b></span>", escape(k), escape(v))).collect();
            let preview = case.preview.map_or("<p>No picture.</p>".to_owned(), |png| image("png", png, case.name));
            let (name, tone, verdict) = (escape(case.name), case.tone.class(), escape(&case.verdict));
            self.add(format_args!(
                "<details class=\"case\"{open}><summary><span class=\"name\">{name}</span><span class=\"badge {tone}\">{verdict}</span>{facts}</summary>{preview}</details>\n"
            ));
        }
        self
    }

    /// The whole file.
    pub fn render(&self) -> String {
        let links: String = self.sections.iter().map(|(id, heading)| format!("<a href=\"#{id}\">{}</a>", escape(heading))).collect();
        let (title, subtitle, body, version) = (escape(&self.title), escape(&self.subtitle), &self.body, env!("CARGO_PKG_VERSION"));
        format!(
            r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="color-scheme" content="light dark" />
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'" />
<title>{title}</title>
<style>
{STYLE}</style>
</head>
<body>
<header><div class="inner"><div class="brand">{LOGO}panscreen</div><h1>{title}</h1><p>{subtitle}</p><nav>{links}</nav></div></header>
<main class="inner">
{body}</main>
<footer class="inner">Made by panscreen {version}. For research; not for clinical decisions.</footer>
<script>
{SCRIPT}</script>
</body>
</html>
"#
        )
    }

    fn add(&mut self, html: std::fmt::Arguments) {
        // Writing to a String does not fail.
        let _ = self.body.write_fmt(html);
    }
}

fn image(kind: &str, bytes: &[u8], alt: &str) -> String {
    format!(r#"<img alt="{}" src="data:image/{kind};base64,{}" />"#, escape(alt), base64(bytes))
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

/// A window, and the look into it.
const LOGO: &str = r#"<svg viewBox="0 0 24 24" width="22" height="22" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true"><path d="M3 8V5a2 2 0 0 1 2-2h3M16 3h3a2 2 0 0 1 2 2v3M21 16v3a2 2 0 0 1-2 2h-3M8 21H5a2 2 0 0 1-2-2v-3"/><circle cx="12" cy="12" r="4.2"/><circle cx="12" cy="12" r="1" fill="currentColor"/></svg>"#;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert('\u{7}&\")</script>";

    fn page() -> String {
        let mut page = Page::new(HOSTILE, HOSTILE);
        page.cards(&[Card { label: HOSTILE, value: HOSTILE.into(), note: HOSTILE.into(), tone: Tone::Good }])
            .section(HOSTILE)
            .prose(&format!("{HOSTILE}\n\nsecond"))
            .table(&Table {
                caption: HOSTILE,
                columns: &[HOSTILE, "Dice", "recall"],
                rows: vec![
                    vec![Cell::text(HOSTILE), Cell::Missing, Cell::Percent(0.123, 1)],
                    vec![Cell::text("b"), Cell::Number(0.5, 3), Cell::Number(f64::NAN, 1)],
                ],
            })
            .figures(&[
                Figure::Svg { svg: "<svg viewBox=\"0 0 1 1\"></svg>".into(), caption: HOSTILE },
                Figure::Png { png: b"png", caption: HOSTILE, alt: HOSTILE },
            ])
            .cases(&[Case {
                name: HOSTILE,
                verdict: HOSTILE.into(),
                tone: Tone::Bad,
                facts: vec![(HOSTILE, HOSTILE.into())],
                preview: None,
                open: true,
            }]);
        page.render()
    }

    #[test]
    fn nothing_is_fetched_and_nothing_gets_in() {
        let html = page();
        for forbidden in ["http://", "https://", "alert('", "@import", "url(", "\u{7}"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert_eq!(html.matches("<script").count(), 1);
    }

    /// Every element that is opened is closed, in order, and every attribute is quoted.
    #[test]
    fn the_page_is_well_formed() {
        let html = page();
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html.strip_prefix("<!DOCTYPE html>").unwrap();
        while let Some(start) = rest.find('<') {
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "closed by <{tag}>");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
            if !tag.starts_with('/') && (name == "script" || name == "style") {
                rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn cells_sort_by_value_and_show_what_is_missing() {
        for (cell, html) in [
            (Cell::number(Some(0.12345), 2), r#"<td class="num" data-value="0.12345">0.12</td>"#),
            (Cell::percent(Some(0.25), 0), r#"<td class="num" data-value="0.25">25 %</td>"#),
            (Cell::number(None, 2), r#"<td class="num missing">–</td>"#),
            (Cell::text("a<b"), "<td>a&lt;b</td>"),
        ] {
            assert_eq!(cell.html(), html);
        }
    }

    #[test]
    fn base64_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }
}
