//! What a peer wrote, made fit for a line of a log or a terminal.

/// At most `most` characters of it on one line: runs of white space are one space; control characters, those that turn
/// the direction of text and those that show nothing are left out.
pub(crate) fn tame(text: &str, most: usize) -> String {
    let words = text.split_whitespace().map(|word| word.chars().filter(|c| shows(*c)));
    let mut out = String::new();
    let mut count = 0;
    for word in words {
        let gap = (!out.is_empty()).then_some(' ');
        for c in gap.into_iter().chain(word) {
            if count == most {
                return out;
            }
            out.push(c);
            count += 1;
        }
    }
    out
}

/// Unicode's format characters that matter here: zero width, direction marks, byte order mark, the replacement.
fn shows(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}');
    !c.is_control() && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_wrote_stays_on_one_line_and_is_cut() {
        assert_eq!(tame("<h1>502\r\n\t Bad</h1>\x1b[31m \u{202e}x", 100), "<h1>502 Bad</h1>[31m x");
        assert_eq!(tame("äöü äöü", 5), "äöü ä");
        assert_eq!(tame(" \r\n", 5), "");
    }
}
