//! A row of figures as a line of small bars: from zero to the largest of them. What is not known is a space.

/// Eight heights, and the same without Unicode.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PLAIN: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Can blocks be shown? Not on a dumb terminal, nor where text is not UTF-8.
pub fn can_show_blocks() -> bool {
    blocks_in(|name| std::env::var(name).ok())
}

fn blocks_in(variable: impl Fn(&str) -> Option<String>) -> bool {
    // the first one that is set decides, as for every program
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(&variable).find(|v| !v.is_empty());
    let utf8 = locale.is_some_and(|l| {
        let l = l.to_ascii_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    });
    utf8 && variable("TERM").is_none_or(|t| t != "dumb")
}

/// The line, at most `width` wide: of more figures the largest of each few is shown.
pub fn line(figures: &[Option<f64>], width: usize, blocks: bool) -> String {
    let bars = if blocks { BLOCKS } else { PLAIN };
    let each = figures.len().div_ceil(width.max(1)).max(1);
    let most = figures.iter().flatten().copied().fold(0.0, f64::max);
    let bar = |few: &[Option<f64>]| {
        let Some(n) = few.iter().flatten().copied().reduce(f64::max) else { return ' ' };
        if most <= 0.0 || n <= 0.0 {
            return bars[0];
        }
        // whatever there was at all is seen
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let height = (n / most * 7.0).round().max(1.0) as usize;
        bars[height.min(7)]
    };
    figures.chunks(each).map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(figures: &[f64]) -> Vec<Option<f64>> {
        figures.iter().copied().map(Some).collect()
    }

    #[test]
    fn zero_is_low_the_largest_is_high_and_a_gap_is_a_space() {
        let mut all = some(&[0.0, 0.01, 5.0, 10.0]);
        all.insert(2, None);
        assert_eq!(line(&all, 60, true), "▁▂ ▅█");
        assert_eq!(line(&all, 60, false), "_. =#");
        assert_eq!(line(&some(&[0.0, 0.0]), 60, true), "▁▁");
        assert_eq!(line(&[None, None], 60, true), "  ");
        assert_eq!(line(&[], 60, true), "");
    }

    #[test]
    fn more_figures_than_places_keep_their_peaks() {
        let mut all = some(&[1.0; 100]);
        all[37] = Some(8.0);
        let l = line(&all, 10, false);
        assert_eq!(l.len(), 10);
        assert_eq!(l.find('#'), Some(3));
        all[50..60].fill(None);
        assert_eq!(line(&all, 10, false).chars().nth(5), Some(' '));
    }

    #[test]
    fn blocks_are_for_terminals_that_have_them() {
        let with = |vars: &'static [(&str, &str)]| {
            blocks_in(|n| vars.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned()))
        };
        assert!(with(&[("LANG", "de_DE.UTF-8")]) && with(&[("LC_ALL", "C.utf8"), ("LANG", "C")]));
        assert!(!with(&[]) && !with(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]));
        assert!(!with(&[("LANG", "C.UTF-8"), ("TERM", "dumb")]));
    }
}
