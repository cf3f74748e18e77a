//! A value that is not finite stops the run in the step where it appears.

/// A loss, reward or gradient that is NaN or infinite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "step {step}: `{name}` is {value}; the run stopped before this step changed any weight; lower the learning rate or look at the crops of this step"
)]
pub struct NonFinite {
    /// The metric's name as logged (`loss/focus`, `reward`), or for gradients the norm's name and the parameter's path.
    pub name: String,
    pub value: f64,
    pub step: u64,
}

/// Refuse `value` if it is NaN or infinite.
///
/// Call it between the backward pass and the optimiser's step, so that the weights and the checkpoint stay healthy.
pub fn check_finite(name: &str, value: impl Into<f64>, step: u64) -> Result<(), NonFinite> {
    let value = value.into();
    if value.is_finite() { Ok(()) } else { Err(NonFinite { name: name.to_owned(), value, step }) }
}

/// Refuse the first value of `values` that is NaN or infinite; its place is part of the name: `reward[3]`.
pub fn check_all_finite(name: &str, values: &[f32], step: u64) -> Result<(), NonFinite> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => check_finite(&format!("{name}[{i}]"), values[i], step),
    }
}

/// Refuse a set of gradients of which one norm is NaN or infinite: `norms` pairs each parameter's path with its gradient's norm.
///
/// The message names the first such parameter: `grad_norm/glance at encoder.stem.weight`.
pub fn check_gradients<'a>(name: &str, norms: impl IntoIterator<Item = (&'a str, f32)>, step: u64) -> Result<(), NonFinite> {
    norms.into_iter().try_for_each(
        |(path, norm)| {
            if norm.is_finite() { Ok(()) } else { check_finite(&format!("{name} at {path}"), norm, step) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_what_broke_and_when() {
        assert!(check_finite("loss/focus", 0.5f32, 7).is_ok());
        assert!(check_finite("loss/focus", f64::MAX, 7).is_ok());
        for (broken, name) in [
            (check_finite("loss/focus", f32::NAN, 7), "`loss/focus` is NaN"),
            (check_finite("reward", f64::NEG_INFINITY, 7), "`reward` is -inf"),
            (check_all_finite("reward", &[0.0, f32::INFINITY, f32::NAN], 7), "`reward[1]` is inf"),
            (
                check_gradients("grad_norm/glance", [("stem", 1.0), ("head.weight", f32::NAN)], 7),
                "`grad_norm/glance at head.weight` is NaN",
            ),
        ] {
            let message = broken.unwrap_err().to_string();
            assert!(message.starts_with("step 7: ") && message.contains(name), "{message}");
        }
    }
}
