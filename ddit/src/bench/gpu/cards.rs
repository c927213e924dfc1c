//! What cards could do at best, from what their makers publish and from predicted bounds.

/// Rates of a card: for dense operands, at boost clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Parts of the name that the driver gives it, all of which it has.
    names: &'static [&'static str],
    /// 10¹² float32 operations a second, of ordinary multiply-adds.
    pub float32: f64,
    /// The same on tensor cores: products of bf16 summed in float32.
    pub tensor: f64,
    /// 10⁹ bytes a second from memory.
    pub memory: f64,
    /// What [bounds](share) call it.
    bounds: &'static str,
}

const fn card(names: &'static [&'static str], rates: [f64; 3], bounds: &'static str) -> Card {
    Card { names, float32: rates[0], tensor: rates[1], memory: rates[2], bounds }
}

/// Cards by name, the more special names first. Source: NVIDIA's data sheets.
const CARDS: [Card; 10] = [
    card(&["A100", "SXM", "80GB"], [19.5, 312.0, 2039.0], "A100"),
    card(&["A100", "80GB"], [19.5, 312.0, 1935.0], "A100"),
    card(&["A100"], [19.5, 312.0, 1555.0], "A100"),
    card(&["H200"], [66.9, 989.0, 4800.0], "H100"),
    card(&["H100", "PCIe"], [51.2, 756.0, 2000.0], "H100"),
    card(&["H100"], [66.9, 989.0, 3350.0], "H100"),
    card(&["RTX 4090"], [82.6, 165.2, 1008.0], "RTX 4090"),
    card(&["RTX 3090"], [35.6, 71.0, 936.0], ""),
    card(&["L40S"], [91.6, 362.0, 864.0], ""),
    card(&["RTX A6000"], [38.7, 154.8, 768.0], ""),
];

impl Card {
    /// The card of the name that the driver gives, if its rates are known.
    pub fn named(name: &str) -> Option<Self> {
        CARDS.into_iter().find(|card| card.names.iter().all(|part| name.contains(part)))
    }

    /// The seconds that some work takes at the least: `flops` at a rate of 10¹² a second, `bytes`
    /// through memory.
    pub fn bound(&self, flops: f64, rate: f64, bytes: f64) -> f64 {
        (flops / (rate * 1e12)).max(bytes / (self.memory * 1e9))
    }

    /// The share of the tensor cores' rate that a kernel's main loop can reach, as
    /// `kernels/perf/bounds.md` predicts it; all of it where that says nothing of kernel or card.
    pub fn share(&self, kernel: &str) -> f64 {
        share(include_str!("../../../../kernels/perf/bounds.md"), kernel, self.bounds)
            .unwrap_or(1.0)
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
    fn cards_are_found_by_the_drivers_names() {
        let memory = |name| Card::named(name).map(|card| card.memory);
        assert_eq!(memory("NVIDIA A100-SXM4-40GB"), Some(1555.0));
        assert_eq!(memory("NVIDIA A100 80GB PCIe"), Some(1935.0));
        assert_eq!(memory("NVIDIA H100 80GB HBM3"), Some(3350.0));
        assert_eq!(memory("NVIDIA GeForce RTX 4090"), Some(1008.0));
        assert_eq!(memory("NVIDIA GeForce GTX 1080"), None);
    }

    #[test]
    fn bounds_are_the_tighter_limit() {
        let card = Card::named("RTX 4090").unwrap();
        assert_eq!(card.bound(82.6e12, card.float32, 0.0), 1.0);
        assert_eq!(card.bound(82.6e12, card.float32, 2016e9), 2.0);
    }

    /// The table is written elsewhere: its shape may not change unseen.
    #[test]
    fn shares_are_read_from_the_table_of_bounds() {
        let product = "gemm_tensor_cores_nt_bf16_f32_store";
        assert_eq!(Card::named("A100").unwrap().share("attention_d64_s2_f32"), 0.8);
        assert_eq!(Card::named("H100").unwrap().share(product), 0.57);
        assert_eq!(Card::named("RTX 4090").unwrap().share(product), 1.0);
        assert_eq!(Card::named("RTX 3090").unwrap().share(product), 1.0, "not in the table");
    }
}
