//! Settings of a candidate by which it computes something else than the checkpoint.

use super::words::of_layers;
use crate::config::{Architecture, MlpInput, Norm, NormForm, Positions, Residual};

/// The largest epsilon whose place beside or under the root of an RMS norm makes no difference: relative to a mean square of
/// order one, it is below the rounding of float32.
const NEGLIGIBLE_EPSILON: f64 = 1e-7;

/// Settings that make the candidate another function of the same parameters: name, the checkpoint's value, the candidate's.
/// Left out are those without effect: other names of the same function, a window that is never left, biases and norms that
/// the parameters speak for.
pub fn effective_differences(checkpoint: &Architecture, candidate: &Architecture) -> Vec<(String, String, String)> {
    let mut differences = checkpoint.differences(candidate);
    differences.retain(|(name, ..)| match name.as_str() {
        "attention_bias" | "mlp_bias" | "sliding_window" => false,
        "norm" => {
            let forms = |architecture: &Architecture| [architecture.norm_form(), architecture.mlp_norm_form()];
            let (own, other) = (forms(checkpoint), forms(candidate));
            !own.into_iter().zip(other).all(|(own, other)| same_norm(own, other))
        }
        "mlp_norm" => [checkpoint, candidate].iter().any(|of| of.mlp_input == MlpInput::NormOfAttentionNorm),
        "residual" => {
            let parallel = |of: &Architecture| of.residual != Residual::Sequential;
            // A branch that is lost in the checkpoint may be there, adding zeros: its parameters tell.
            let loses = candidate.attention_dropped && !checkpoint.attention_dropped;
            loses || !(parallel(checkpoint) && parallel(candidate))
        }
        // Scores are divided by the layer's number and multiplied by it again; only what is added between feels it.
        "query_key_layer_scaling" => matches!(checkpoint.positions, Positions::RelativeBuckets { .. }),
        _ => true,
    });
    let (own, other) = (windows(checkpoint, checkpoint), windows(candidate, checkpoint));
    if own != other {
        differences.push(("sliding_window".to_owned(), window_words(&own), window_words(&other)));
    }
    differences
}

fn same_norm(own: NormForm, other: NormForm) -> bool {
    let scale = |form: NormForm| form.kind == Norm::ScaleNorm;
    let place = own.placement == other.placement || !own.kind.is_rms() || own.epsilon <= NEGLIGIBLE_EPSILON;
    scale(own) == scale(other)
        && own.kind.is_rms() == other.kind.is_rms()
        && own.epsilon.total_cmp(&other.epsilon).is_eq()
        && place
}

/// Of every layer, the tokens that it looks back, where the longest input of the checkpoint has more.
fn windows(architecture: &Architecture, checkpoint: &Architecture) -> Vec<Option<usize>> {
    let longest = checkpoint.longest_input();
    let window =
        |layer| architecture.sliding_window.filter(|width| architecture.is_flash(layer) && width + 1 < longest);
    (0..architecture.layer_count).map(window).collect()
}

fn window_words(windows: &[Option<usize>]) -> String {
    let windowed: Vec<_> = windows.iter().enumerate().filter_map(|(layer, window)| Some((layer, (*window)?))).collect();
    match windowed[..] {
        [] => "none".to_owned(),
        [(_, width), ..] if windowed.len() == windows.len() => format!("the last {} tokens", width + 1),
        [(_, width), ..] => {
            let layers: Vec<_> = windowed.iter().map(|&(layer, _)| layer).collect();
            format!("the last {} tokens in {}", width + 1, of_layers(&layers))
        }
    }
}
