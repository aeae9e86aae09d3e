//! Text that somebody else chose, made fit to be shown: nothing in it hides, and nothing in it
//! moves what stands beside it. The one list of such characters is here.

/// Hostile text made fit for a terminal: as [`visible`], of at most its first 200 characters.
pub fn bounded(text: &str) -> String {
    bounded_to(text, 200)
}

/// As [`bounded`], with another bound: of a chain of reasons the last one says why.
pub fn bounded_to(text: &str, characters: usize) -> String {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(end, _)| end);
    visible(&text[..end])
}

/// Text in which nothing hides: control characters, and those that are invisible or turn the
/// direction of what follows, are escaped.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.extend(c.escape_debug()),
            c if is_invisible(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Whether a character that is no control character shows nothing or turns the direction of
/// what follows: Unicode's `Default_Ignorable_Code_Point` (with it the bidirectional controls,
/// variation selectors and tags), the line and paragraph separators, and annotation marks.
pub const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hides_in_shown_text() {
        assert_eq!(bounded("a\u{202e}fdp.exe"), "a\\u{202e}fdp.exe");
        assert_eq!(bounded("\u{feff}x\n\u{1b}[31m"), "\\u{feff}x\\n\\u{1b}[31m");
        assert_eq!(visible("\u{9b}31m \u{2028} \u{e0041}"), "\\u{9b}31m \\u{2028} \\u{e0041}");
        assert_eq!(visible("soft\u{ad}hyphen \u{3164} \u{fe01}"), "soft\\u{ad}hyphen \\u{3164} \\u{fe01}");
        assert_eq!(bounded(&"\u{e9}".repeat(300)), "\u{e9}".repeat(200));
        assert_eq!(visible(&"\u{e9}".repeat(300)), "\u{e9}".repeat(300));
        for shown in ["plain", "ünï çødé", "日本語", "العربية", "😀"] {
            assert_eq!(visible(shown), shown);
        }
    }

    /// What is shown is shown as it is, however often it passes through here.
    #[test]
    fn every_character_is_made_visible_once() {
        for c in '\0'..=char::MAX {
            let once = visible(&c.to_string());
            assert!(!once.chars().any(|c| c.is_control() || is_invisible(c)), "{c:?}");
            assert_eq!(visible(&once), once, "{c:?}");
        }
    }
}
