// SPDX-License-Identifier: MIT OR Apache-2.0
//! Medians of paired rounds.

/// The median, and the least and the greatest.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Spread { median: at(sorted.len() / 2), least: at(0), most: at(last) }
    }

    /// The spread of `a / b`, round by round.
    pub(crate) fn ratio(a: &[f64], b: &[f64]) -> Spread {
        Spread::of(a.iter().zip(b).map(|(a, b)| a / b))
    }

    pub(crate) fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}..{:.digits$})", self.median, self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_of_the_rounds_ratios() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).show(0), "2 (1..3)");
        assert_eq!(Spread::ratio(&[2.0, 4.0, 9.0], &[1.0, 2.0, 3.0]).show(1), "2.0 (2.0..3.0)");
    }
}
