//! Classic BPF programs of the kind that seccomp(2) takes, written from their end to their start.
//!
//! Jumps only lead forward in BPF. Written backwards, the target of a jump is always there already,
//! so its distance is known and a program is made in one pass. A conditional jump reaches 255
//! instructions; what lies farther is reached through a jump, or a copy of a return, put in between.

use crate::Error;
use std::collections::HashMap;

/// The most instructions that the kernel accepts in one program (BPF_MAXINSNS).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// How far a conditional jump reaches.
const REACH: usize = u8::MAX as usize;

/// A filter, ready to be loaded into a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    /// `struct sock_filter`s, eight bytes each, in the machine's byte order.
    pub filter: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub flags: u32,
}

/// What a conditional jump compares the accumulator with its constant for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Test {
    Equal,
    Greater,
    AtLeast,
}

/// An instruction that a jump can lead to, counted from the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

const LOAD_WORD: u16 = opcode(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const AND: u16 = opcode(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const JUMP: u16 = opcode(libc::BPF_JMP | libc::BPF_JA);
const RETURN: u16 = opcode(libc::BPF_RET | libc::BPF_K);

#[allow(clippy::cast_possible_truncation)]
const fn opcode(code: u32) -> u16 {
    assert!(code <= u16::MAX as u32);
    code as u16
}

impl Test {
    const fn opcode(self) -> u16 {
        opcode(
            libc::BPF_JMP
                | libc::BPF_K
                | match self {
                    Self::Equal => libc::BPF_JEQ,
                    Self::Greater => libc::BPF_JGT,
                    Self::AtLeast => libc::BPF_JGE,
                },
        )
    }
}

/// A program in the making. What is written next is executed before all that is there.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// The return of each value that was written last.
    returns: HashMap<u32, Label>,
}

impl Assembler {
    /// Ends the program with a value.
    pub(crate) fn ret(&mut self, value: u32) -> Result<Label, Error> {
        // One instruction less, since a branch may put one in between before it jumps.
        match self.returns.get(&value) {
            Some(&label) if self.distance(label) < REACH => Ok(label),
            _ => self.copy_return(value),
        }
    }

    /// Tests the accumulator as it is.
    pub(crate) fn branch(
        &mut self,
        test: Test,
        k: u32,
        yes: Label,
        no: Label,
    ) -> Result<Label, Error> {
        let no = self.within_reach(no, 1)?;
        let yes = self.within_reach(yes, 0)?;
        let instruction = Instruction {
            code: test.opcode(),
            if_true: self.short_distance(yes),
            if_false: self.short_distance(no),
            k,
        };
        self.push(instruction)
    }

    /// Loads a word of `struct seccomp_data` and masks it, before what `next` leads to.
    pub(crate) fn load(&mut self, offset: u32, mask: u32, next: Label) -> Result<Label, Error> {
        if self.distance(next) != 0 {
            self.jump(next)?;
        }
        if mask != u32::MAX {
            self.push(Instruction {
                code: AND,
                if_true: 0,
                if_false: 0,
                k: mask,
            })?;
        }
        self.push(Instruction {
            code: LOAD_WORD,
            if_true: 0,
            if_false: 0,
            k: offset,
        })
    }

    /// The program, which starts with what was written last.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.reversed
            .iter()
            .rev()
            .flat_map(|instruction| instruction.to_bytes())
            .collect()
    }

    /// A label for the same place that the next instruction can jump to, also when `more` others
    /// are written first.
    fn within_reach(&mut self, to: Label, more: usize) -> Result<Label, Error> {
        if self.distance(to) + more <= REACH {
            return Ok(to);
        }
        match self.reversed[to.0] {
            Instruction {
                code: RETURN, k, ..
            } => self.ret(k),
            _ => self.jump(to),
        }
    }

    fn copy_return(&mut self, value: u32) -> Result<Label, Error> {
        let label = self.push(Instruction {
            code: RETURN,
            if_true: 0,
            if_false: 0,
            k: value,
        })?;
        self.returns.insert(value, label);
        Ok(label)
    }

    fn jump(&mut self, to: Label) -> Result<Label, Error> {
        let k = u32::try_from(self.distance(to)).expect("a program has at most 4096 instructions");
        self.push(Instruction {
            code: JUMP,
            if_true: 0,
            if_false: 0,
            k,
        })
    }

    fn push(&mut self, instruction: Instruction) -> Result<Label, Error> {
        if self.reversed.len() == MAX_INSTRUCTIONS {
            return Err(Error::TooLarge);
        }
        self.reversed.push(instruction);
        Ok(Label(self.reversed.len() - 1))
    }

    /// Instructions between the next one written and `to`.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - 1 - to.0
    }

    fn short_distance(&self, to: Label) -> u8 {
        u8::try_from(self.distance(to)).expect("within_reach has seen to it")
    }
}

impl Instruction {
    /// `struct sock_filter` (linux/filter.h).
    fn to_bytes(self) -> [u8; 8] {
        let [code_0, code_1] = self.code.to_ne_bytes();
        let [k_0, k_1, k_2, k_3] = self.k.to_ne_bytes();
        [
            code_0,
            code_1,
            self.if_true,
            self.if_false,
            k_0,
            k_1,
            k_2,
            k_3,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::interpreter::{Filter, SeccompData};

    /// Far ladders of tests that all end at the same two returns.
    #[test]
    fn jumps_over_more_than_255_instructions_arrive() {
        let mut assembler = Assembler::default();
        let deny = assembler.ret(1).unwrap();
        let mut next = assembler.ret(2).unwrap();
        for number in (0..1000).rev() {
            let yes = if number % 3 == 0 {
                deny
            } else {
                assembler.ret(number + 10).unwrap()
            };
            next = assembler.branch(Test::Equal, number, yes, next).unwrap();
        }
        assembler.load(0, u32::MAX, next).unwrap();
        let filter = Filter::new(&assembler.finish());
        for number in 0..1001 {
            let expected = match number {
                1000 => 2,
                _ if number % 3 == 0 => 1,
                _ => number + 10,
            };
            let data = SeccompData {
                number,
                ..SeccompData::default()
            };
            assert_eq!(filter.run(&data).value, expected, "{number}");
        }
    }

    #[test]
    fn the_kernels_limit_is_an_error() {
        let mut assembler = Assembler::default();
        let mut next = assembler.ret(0).unwrap();
        for number in 1..4096 {
            next = assembler.branch(Test::Equal, number, next, next).unwrap();
        }
        assert!(matches!(
            assembler.branch(Test::Equal, 0, next, next),
            Err(Error::TooLarge)
        ));
    }
}
