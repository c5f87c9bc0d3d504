//! What does a link cost whose limit is not hard?

use super::{Entering, Leaving, Master, NONE};

/// The kinks of `φ` in loads, and its slopes, for each link; without them a limit is hard.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Curves {
    /// By link, `pieces` slopes each.
    pub(in super::super) slopes: Vec<f64>,
    /// By link, `pieces` upper ends each, the last infinite.
    pub(in super::super) ends: Vec<f64>,
    pub(super) pieces: usize,
    /// The piece each link is on; a tight one is at its end.
    pub(super) piece: Vec<usize>,
}

impl Curves {
    pub(in super::super) fn new(pieces: usize) -> Self {
        Self { pieces, ..Self::default() }
    }
}

impl Master {
    /// Gives links slopes instead of hard limits, each on the piece of its load.
    pub(in super::super) fn set_curves(&mut self, mut curves: Curves) {
        curves.piece.clear();
        for (ends, load) in curves.ends.chunks(curves.pieces).zip(&self.load) {
            curves.piece.push(ends.iter().position(|end| load < end).unwrap_or(curves.pieces - 1));
        }
        for (link, limit) in self.limit.iter_mut().enumerate() {
            *limit = curves.ends[link * curves.pieces + curves.piece[link]];
        }
        self.curves = Some(curves);
    }

    /// Moves the kinks of links that have slopes and takes the basis over: tight links stay at the kink they were
    /// at, columns that would fall below zero leave. False where the basis has become singular.
    #[must_use]
    pub(in super::super) fn move_curves(&mut self, mut curves: Curves) -> bool {
        let Some(before) = self.curves.take() else { return false };
        curves.piece = before.piece;
        for (link, limit) in self.limit.iter_mut().enumerate() {
            *limit = curves.ends[link * curves.pieces + curves.piece[link]];
        }
        if !self.refactor() {
            return false;
        }
        // Any loads will do where no limit is hard, so it is enough to let go of the kinks that hold them.
        while let Some((leaving, _)) = self.most_infeasible(false) {
            let position = match leaving {
                Leaving::Key(set) => {
                    let Some(position) = self.largest_member(set) else { return false };
                    self.image.clear();
                    self.swap_key(set, position, Entering::Load(0, 0.0));
                    position
                }
                Leaving::Basic(position) => position,
                Leaving::Load(_) | Leaving::Itself => return false,
            };
            self.drop_basic(position);
            if !self.refactor() {
                return false;
            }
        }
        for (link, load) in self.load.iter().enumerate().filter(|(link, _)| self.place[*link] == NONE) {
            let ends = &curves.ends[link * curves.pieces..][..curves.pieces];
            curves.piece[link] = ends.iter().position(|end| load < end).unwrap_or(curves.pieces - 1);
            self.limit[link] = ends[curves.piece[link]];
        }
        self.curves = Some(curves);
        true
    }

    /// The slopes below and above the kink at which a tight link is.
    pub(super) fn slopes_at(&self, link: usize) -> (f64, f64) {
        match &self.curves {
            None => (0.0, f64::INFINITY),
            Some(curves) => {
                let at = link * curves.pieces + curves.piece[link];
                (curves.slopes[at], curves.slopes[at + 1])
            }
        }
    }

    /// The kink below the load of a link that is not tight.
    pub(super) fn floor(&self, link: usize) -> f64 {
        match &self.curves {
            Some(curves) if curves.piece[link] > 0 => {
                curves.ends[link * curves.pieces + curves.piece[link] - 1]
            }
            _ => f64::NEG_INFINITY,
        }
    }

    /// Moves a link to another piece.
    pub(super) fn move_piece(&mut self, link: usize, by: isize) {
        if let Some(curves) = &mut self.curves {
            curves.piece[link] = curves.piece[link].saturating_add_signed(by);
            self.limit[link] = curves.ends[link * curves.pieces + curves.piece[link]];
        }
    }
}
