//! Classic BPF as the kernel runs it for seccomp, with the checks that it makes when a filter is
//! loaded.

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SeccompData {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) value: u32,
    /// Instructions executed.
    pub(crate) steps: usize,
}

#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// A filter that the kernel would load.
pub(crate) struct Filter(Vec<Instruction>);

impl Filter {
    /// Panics where the kernel would refuse to load it.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let program = decode(bytes);
        assert!((1..=4096).contains(&program.len()));
        for (at, instruction) in program.iter().enumerate() {
            let farthest = instruction.farthest_after(at);
            assert!(
                farthest < program.len(),
                "instruction {at} leaves the program"
            );
        }
        Self(program)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Runs the filter on one syscall.
    pub(crate) fn run(&self, data: &SeccompData) -> Outcome {
        let mut accumulator = 0;
        let mut at = 0;
        let mut steps = 0;
        loop {
            let instruction = self.0[at];
            let k = instruction.k;
            steps += 1;
            at += 1;
            match instruction.code {
                LOAD_WORD => accumulator = data.word(k),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => at += instruction.branch(accumulator == k),
                JUMP_GREATER => at += instruction.branch(accumulator > k),
                JUMP_AT_LEAST => at += instruction.branch(accumulator >= k),
                _ => return Outcome { value: k, steps },
            }
        }
    }
}

impl Instruction {
    fn branch(self, holds: bool) -> usize {
        usize::from(if holds { self.if_true } else { self.if_false })
    }

    /// The last instruction that can come after this one, which is at `at`.
    fn farthest_after(self, at: usize) -> usize {
        match self.code {
            LOAD_WORD => {
                assert!(self.k.is_multiple_of(4) && self.k < 64);
                at + 1
            }
            AND => at + 1,
            JUMP => at + 1 + self.k as usize,
            JUMP_EQUAL | JUMP_GREATER | JUMP_AT_LEAST => {
                at + 1 + usize::from(self.if_true.max(self.if_false))
            }
            RETURN => at,
            other => panic!("seccomp knows no instruction {other:#x}"),
        }
    }
}

impl SeccompData {
    /// The word at an offset in bytes.
    #[allow(clippy::cast_possible_truncation)]
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            _ => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    arg as u32
                } else {
                    (arg >> 32) as u32
                }
            }
        }
    }
}

fn decode(filter: &[u8]) -> Vec<Instruction> {
    let (instructions, rest) = filter.as_chunks::<8>();
    assert!(rest.is_empty());
    instructions
        .iter()
        .map(|&[c0, c1, if_true, if_false, k0, k1, k2, k3]| Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            if_true,
            if_false,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect()
}
