//! Where a run computes: no setting of it, but what its rounding depends on.

use std::fmt;

use autograd::is_autocast;
use serde::{Deserialize, Serialize};
use tensor::Device;

/// Where steps are made. A checkpoint remembers it; printed, it is what the command line calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The device's name: `cpu`, `cuda:0`.
    pub device: String,
    /// Whether its tensor cores multiply in bf16.
    pub bf16: bool,
}

impl Place {
    /// A device, under [`autocast`](autograd::autocast()) or not.
    pub fn of(device: &Device) -> Self {
        Self { device: device.to_string(), bf16: is_autocast() && *device != Device::Cpu }
    }

    /// Whether steps made here have the bits of those made there. Which of several GPUs it is does
    /// not count.
    pub fn rounds_like(&self, other: &Self) -> bool {
        let kind = |place: &Self| place.device.split(':').next().map(str::to_owned);
        kind(self) == kind(other) && self.bf16 == other.bf16
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--device {}{}", self.device, if self.bf16 { " --bf16" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_alike_if_their_rounding_is() {
        let place = |device: &str, bf16| Place { device: device.to_owned(), bf16 };
        assert!(place("cuda:0", true).rounds_like(&place("cuda:3", true)));
        assert!(!place("cuda:0", true).rounds_like(&place("cuda:0", false)));
        assert!(!place("cpu", false).rounds_like(&place("cuda:0", false)));
        // On the processor it changes nothing.
        let cpu = autograd::autocast(|| Place::of(&Device::Cpu));
        assert_eq!(cpu, place("cpu", false));
        assert_eq!(place("cuda:1", true).to_string(), "--device cuda:1 --bf16");
    }
}
