//! What cards could do at best, from what their makers publish and from predicted bounds.

/// Rates of a card: for dense operands, at published boost clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// The names that the driver gives it, without NVIDIA's, and the one of the tests' virtual
    /// machine.
    names: &'static [&'static str],
    /// 10¹² float32 operations a second, of ordinary multiply-adds.
    pub float32: f64,
    /// The same on tensor cores: products of bf16 summed in float32.
    pub tensor: f64,
    /// 10⁹ bytes a second from memory.
    pub memory: f64,
    /// What [bounds](Self::share) call it, if they know its kind.
    bounds: Option<&'static str>,
}

const fn card(
    names: &'static [&'static str],
    [float32, tensor, memory]: [f64; 3],
    bounds: Option<&'static str>,
) -> Card {
    Card { names, float32, tensor, memory, bounds }
}

const AMPERE: Option<&str> = Some("A100");
const ADA: Option<&str> = Some("RTX 4090");
const HOPPER: Option<&str> = Some("H100");

/// Cards by name: of no other card, since a laptop's or a part of a card has a longer one and other
/// rates. Source: NVIDIA's data sheets.
const CARDS: [Card; 13] = [
    card(&["A100", "A100-SXM4-40GB", "A100-PCIE-40GB"], [19.5, 312.0, 1555.0], AMPERE),
    card(&["A100 80GB PCIe"], [19.5, 312.0, 1935.0], AMPERE),
    card(&["A100-SXM4-80GB"], [19.5, 312.0, 2039.0], AMPERE),
    card(&["H100", "H100 80GB HBM3"], [66.9, 989.0, 3350.0], HOPPER),
    card(&["H100 PCIe"], [51.2, 756.0, 2000.0], HOPPER),
    card(&["H100 NVL"], [60.0, 835.0, 3938.0], HOPPER),
    card(&["H200"], [66.9, 989.0, 4800.0], HOPPER),
    card(&["H200 NVL"], [60.0, 835.0, 4800.0], HOPPER),
    card(&["RTX 4090", "GeForce RTX 4090"], [82.6, 165.2, 1008.0], ADA),
    card(&["RTX 3090", "GeForce RTX 3090"], [35.6, 71.0, 936.0], None),
    card(&["GeForce RTX 3090 Ti"], [40.0, 80.0, 1008.0], None),
    card(&["L40S"], [91.6, 362.0, 864.0], None),
    card(&["RTX A6000"], [38.7, 154.8, 768.0], None),
];

impl Card {
    /// The card of the name that the driver gives, if its rates are known.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.strip_prefix("NVIDIA ").unwrap_or(name);
        let name = name.strip_suffix(" (PTX virtual machine)").unwrap_or(name);
        CARDS.into_iter().find(|card| card.names.contains(&name))
    }

    /// The seconds that some work takes at the least: `flops` at a rate of 10¹² a second, `bytes`
    /// through memory.
    pub fn bound(&self, flops: f64, rate: f64, bytes: f64) -> f64 {
        (flops / (rate * 1e12)).max(bytes / (self.memory * 1e9))
    }

    /// The share of the tensor cores' published rate that a kernel's main loop can reach, as
    /// `kernels/perf/bounds.md` predicts it: all of it for cards that it says nothing of, whose
    /// rate `mma.sync` reaches; `None` for a kernel that it says nothing of.
    pub fn share(&self, kernel: &str) -> Option<f64> {
        let table = include_str!("../../../../kernels/perf/bounds.md");
        self.bounds.map_or(Some(1.0), |card| share(table, kernel, card))
    }
}

/// The last column of the row of a kernel and a card.
fn share(table: &str, kernel: &str, card: &str) -> Option<f64> {
    let kernel = format!("`{kernel}`");
    let mut rows = table.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let row = rows.find(|row| row.len() > 3 && row[1] == kernel && row[2] == card)?;
    let percent = row[row.len() - 2].strip_suffix(" %")?;
    Some(percent.parse::<f64>().ok()? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_found_by_the_drivers_names_and_no_others() {
        let memory = |name| Card::named(name).map(|card| card.memory);
        assert_eq!(memory("NVIDIA A100-SXM4-40GB"), Some(1555.0));
        assert_eq!(memory("NVIDIA A100 80GB PCIe"), Some(1935.0));
        assert_eq!(memory("NVIDIA H100 80GB HBM3"), Some(3350.0));
        assert_eq!(memory("NVIDIA GeForce RTX 4090"), Some(1008.0));
        assert_eq!(memory("A100 (PTX virtual machine)"), Some(1555.0));
        for other in [
            "NVIDIA GeForce GTX 1080",
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA GeForce RTX 4090 D",
            "NVIDIA A100X",
            "NVIDIA GH200 480GB",
            "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        ] {
            assert_eq!(Card::named(other), None, "{other}");
        }
        let names: Vec<&str> = CARDS.iter().flat_map(|card| card.names).copied().collect();
        let mut different = names.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), names.len(), "a name is of one card");
    }

    #[test]
    fn bounds_are_the_tighter_limit() {
        let card = Card::named("RTX 4090").unwrap();
        assert_eq!(card.bound(82.6e12, card.float32, 0.0), 1.0);
        assert_eq!(card.bound(82.6e12, card.float32, 2016e9), 2.0);
    }

    /// The table is written elsewhere: its shape may not change unseen. What of a Hopper's
    /// published rate `mma.sync` cannot reach counts too.
    #[test]
    fn shares_are_read_from_the_table_of_bounds() {
        let product = "gemm_tensor_cores_nt_bf16_f32_store";
        let share = |name, kernel| Card::named(name).unwrap().share(kernel);
        assert_eq!(share("A100", "attention_d64_s2_f32"), Some(0.8));
        assert_eq!(share("H100", product), Some(0.61));
        assert_eq!(share("RTX 4090", product), Some(1.0));
        assert_eq!(share("RTX 3090", product), Some(1.0), "not in the table");
        assert_eq!(share("H100", "no kernel"), None);
    }
}
