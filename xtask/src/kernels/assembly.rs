//! Reads AMD's assembly: which instructions the loop over k of a product has, and what they cost.

/// The instructions of a loop, each counted as often as one iteration executes it. A block that a wave may skip counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loop {
    /// Products of matrix units.
    pub units: u64,
    /// Multiply-adds of the vector ALU.
    pub multiply_adds: u64,
    /// Its other instructions.
    pub others: u64,
    /// Loads and stores of workgroup memory (LDS).
    pub shared: u64,
    /// Cycles of them.
    shared_cycles: u64,
}

/// Cycles that a 16x16x16 product keeps a SIMD of RDNA 3: 8192 operations at 256 per cycle.
const UNIT_CYCLES: u64 = 32;

/// Cycles of a vector instruction of 64 lanes on a SIMD's 32 lanes. A multiply-add of two registers' halves takes one: the
/// peak that is compared with counts them so.
const VECTOR_CYCLES: u64 = 2;
const MULTIPLY_ADD_CYCLES: u64 = 1;

impl Loop {
    /// The share of the peak of multiply-adds: of matrix units if the loop has any. If enough waves are in flight, the vector
    /// ALU and workgroup memory work side by side, and the slower of the two decides.
    pub fn share(&self) -> f64 {
        let useful = match self.units {
            0 => self.multiply_adds * MULTIPLY_ADD_CYCLES,
            units => units * UNIT_CYCLES,
        };
        let vector = self.units * UNIT_CYCLES
            + self.multiply_adds * MULTIPLY_ADD_CYCLES
            + self.others * VECTOR_CYCLES;
        useful as f64 / vector.max(self.shared_cycles).max(1) as f64
    }

    fn is_multiplying(&self) -> bool {
        self.units + self.multiply_adds > 0
    }

    /// Adds an instruction that one iteration executes `times` times.
    fn add(&mut self, instruction: &str, times: u64) {
        if instruction.starts_with("v_wmma") {
            self.units += times;
        } else if ["v_fma_f32", "v_fmac_f32", "v_fmaak_f32", "v_fmamk_f32"]
            .iter()
            .any(|name| instruction.starts_with(name))
        {
            self.multiply_adds += times;
        } else if instruction.starts_with("v_dual") {
            // Two in one cycle; the peak counts a multiply-add as half a cycle's pair.
            self.multiply_adds += 2 * times * u64::from(instruction.contains("fma"));
        } else if instruction.starts_with("v_") {
            self.others += times;
        } else if instruction.starts_with("ds_") {
            self.shared += times;
            // 128 bytes per cycle for the two SIMDs of a compute unit: 64 lanes of so many bytes take as many cycles.
            let bytes = [("b128", 16), ("b96", 12), ("b64", 8), ("2addr", 8)]
                .iter()
                .find_map(|(width, bytes)| instruction.contains(width).then_some(*bytes))
                .unwrap_or(4);
            self.shared_cycles += bytes * times;
        }
    }
}

/// The loop over k of a product: the outermost of the loops with the most multiply-adds. A loop within it that multiplies
/// runs `inner_iterations` times.
pub fn hot_loop(assembly: &str, inner_iterations: u64) -> Option<Loop> {
    let mut instructions: Vec<&str> = Vec::new();
    let mut labels: Vec<(&str, usize)> = Vec::new();
    for line in assembly.lines() {
        match line
            .strip_suffix(':')
            .filter(|label| label.starts_with("BB"))
        {
            Some(label) => labels.push((label, instructions.len())),
            None => instructions.push(line.split(';').next().unwrap_or_default().trim()),
        }
    }
    let place = |label: &str| {
        labels
            .iter()
            .find(|(known, _)| *known == label)
            .map(|(_, at)| *at)
    };
    // Backward branches end loops; a loop's end is the last of those to its start.
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for (at, instruction) in instructions.iter().enumerate() {
        let Some((
            "s_branch" | "s_cbranch_scc0" | "s_cbranch_scc1" | "s_cbranch_vccz" | "s_cbranch_vccnz"
            | "s_cbranch_execz" | "s_cbranch_execnz",
            target,
        )) = instruction.split_once(' ')
        else {
            continue;
        };
        match place(target.trim()) {
            Some(start) if start <= at => match loops.iter_mut().find(|(known, _)| *known == start)
            {
                Some((_, end)) => *end = at,
                None => loops.push((start, at)),
            },
            _ => {}
        }
    }
    let count = |(start, end): (usize, usize)| {
        let mut counted = Loop::default();
        for instruction in &instructions[start..=end] {
            counted.add(instruction, 1);
        }
        counted
    };
    let multiplying = |counted: &Loop| counted.units * UNIT_CYCLES + counted.multiply_adds;
    let (outer, counted) = loops
        .iter()
        .map(|part| (*part, count(*part)))
        .max_by_key(|((start, end), counted)| (multiplying(counted), end - start))?;
    let inner = loops
        .iter()
        .filter(|(start, end)| *start > outer.0 && *end < outer.1)
        .map(|part| (*part, count(*part)))
        .filter(|(_, inner)| 2 * multiplying(inner) > multiplying(&counted))
        .max_by_key(|((start, end), _)| end - start);
    let mut hot = Loop::default();
    for (at, instruction) in instructions
        .iter()
        .enumerate()
        .take(outer.1 + 1)
        .skip(outer.0)
    {
        let is_inner = inner
            .as_ref()
            .is_some_and(|((start, end), _)| (*start..=*end).contains(&at));
        hot.add(instruction, if is_inner { inner_iterations } else { 1 });
    }
    hot.is_multiplying().then_some(hot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_of_nested_loops_are_counted() {
        let assembly = "BB0:\n\tv_mov_b32_e32 v1, 0 ; 00\nBB1:\n\tds_store_b64 v1, v[2:3] ; 00\nBB2:\n\tds_load_b128 v[4:7], v1\n\
                        \tv_fma_f32 v1, v2, v3, v1\n\tv_fmac_f32_e32 v1, v2, v3\n\ts_cbranch_scc1 BB2\nBB3:\n\tv_add_nc_u32 v1, v1, v1\n\
                        \ts_branch BB1\nBB4:\n\tv_fma_f32 v1, v2, v3, v1\n\ts_endpgm\n";
        let hot = hot_loop(assembly, 4).unwrap();
        assert_eq!((hot.multiply_adds, hot.others, hot.shared), (8, 1, 5));
        assert_eq!(hot.shared_cycles, 8 + 4 * 16);
        // Workgroup memory's 72 cycles are more than the ALU's 8 + 2.
        assert!((hot.share() - 8.0 / 72.0).abs() < 1e-12);
    }

    #[test]
    fn units_decide_the_share_where_there_are_any() {
        let assembly = "BB1:\n\tv_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]\n\tv_mov_b32_e32 v1, v2\n\ts_branch BB1\n";
        let hot = hot_loop(assembly, 1).unwrap();
        assert_eq!(hot.units, 1);
        assert!((hot.share() - 32.0 / 34.0).abs() < 1e-12);
        assert_eq!(hot_loop("BB0:\n\ts_endpgm\n", 1), None);
    }
}
