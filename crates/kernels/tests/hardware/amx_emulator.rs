//! AMX in software, for CPUs without it: the instructions that the CPU refuses arrive here as a signal.
//!
//! Only the instructions and operands of `bf16/engine/amx.rs` are known.

use std::cell::UnsafeCell;
use std::sync::Once;
use vlct_kernels::bf16::Bf16;
use vlct_kernels::bf16::engine::tdpbf16ps;

/// Rows of a tile, and bytes of a row.
const ROWS: usize = 16;
const ROW: usize = 64;

type Tile = [[u8; ROW]; ROWS];

/// The tile registers of one thread.
struct Unit {
    configured: bool,
    tiles: [Tile; 8],
}

thread_local! {
    /// It is constant at first and has no destructor, so that a signal handler may access it.
    static UNIT: UnsafeCell<Unit> = const { UnsafeCell::new(Unit { configured: false, tiles: [[[0; ROW]; ROWS]; 8] }) };
}

/// Executes AMX instructions in software from now on.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handler has the signature that `SA_SIGINFO` asks for, and does nothing that a handler must not do.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal_instruction as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// Executes the instruction that the CPU has refused and continues after it; ends the program if it is not an AMX instruction.
extern "C" fn on_illegal_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the registers of the interrupted code, which was at an instruction; tests use valid addresses.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = registers[libc::REG_RIP as usize] as *const u8;
        match UNIT.with(|unit| execute(code, registers, &mut *unit.get())) {
            Some(length) => registers[libc::REG_RIP as usize] += length as i64,
            None => {
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// Executes the instruction at `code` and returns its length, or `None` if it is unknown.
///
/// # Safety
/// `code` is an instruction, and its memory operand is valid for a tile.
unsafe fn execute(code: *const u8, registers: &[i64; 23], unit: &mut Unit) -> Option<usize> {
    // SAFETY: each byte is read only if those before it say that the instruction has it.
    let byte = |i: usize| unsafe { *code.add(i) };
    // A prefix of three bytes with the opcode map 0F 38, 128 bits, W = 0. Its register bits are stored inverted.
    if byte(0) != 0xc4 || byte(1) & 0x1f != 2 || byte(2) & 0x84 != 0 {
        return None;
    }
    let (x, b) = (!byte(1) >> 6 & 1, !byte(1) >> 5 & 1);
    let (prefix, third, opcode) = (byte(2) & 3, usize::from(!byte(2) >> 3 & 15), byte(3));
    let modrm = byte(4);
    let (mode, tile, rest) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    if mode == 3 {
        match (opcode, prefix) {
            (0x49, 0) if modrm == 0xc0 => unit.configured = false, // tilerelease
            _ if !unit.configured => return None,
            (0x49, 3) => unit.tiles[tile] = [[0; ROW]; ROWS], // tilezero
            (0x5c, 2) => {
                let (left, right) = (unit.tiles[rest], unit.tiles[third]);
                multiply(&mut unit.tiles[tile], &left, &right);
            }
            _ => return None,
        }
        return Some(5);
    }
    let (base, index, scale, end) = if rest == 4 {
        let sib = byte(5);
        let index = sib >> 3 & 7 | x << 3;
        ((sib & 7) | b << 3, (index != 4).then_some(index), sib >> 6, 6)
    } else {
        (modrm & 7 | b << 3, None, 0, 5)
    };
    let (offset, length) = match mode {
        // Without an offset, these two bases would mean other things than a register.
        0 if base & 7 == 5 => return None,
        0 => (0, end),
        1 => (isize::from(byte(end) as i8), end + 1),
        _ => (
            i32::from_le_bytes([0, 1, 2, 3].map(|i| byte(end + i))) as isize,
            end + 4,
        ),
    };
    let start = (register(registers, base) as *mut u8).wrapping_offset(offset);
    let stride = index.map_or(0, |index| register(registers, index) << scale) as isize;
    if (opcode, prefix) == (0x49, 0) {
        // SAFETY: a configuration has 64 bytes.
        let config = unsafe { std::slice::from_raw_parts(start, 64) };
        let whole = |i: usize| config[16 + 2 * i] == ROW as u8 && config[48 + i] == ROWS as u8;
        *unit = Unit {
            configured: config[0] == 1 && (0..8).all(whole),
            tiles: [[[0; ROW]; ROWS]; 8],
        };
        return unit.configured.then_some(length);
    }
    // Rows that are not whole cache lines would work on a CPU, at half the speed.
    if opcode != 0x4b || !unit.configured || start.align_offset(ROW) != 0 || !(stride as usize).is_multiple_of(ROW) {
        return None;
    }
    for (r, row) in unit.tiles[tile].iter_mut().enumerate() {
        let memory = start.wrapping_offset(stride * r as isize).cast::<[u8; ROW]>();
        // SAFETY: the memory operand is valid for a tile (caller).
        unsafe {
            match prefix {
                3 => *row = *memory,
                2 => *memory = *row,
                _ => return None,
            }
        }
    }
    Some(length)
}

/// The general-purpose register with this number in instruction encodings.
fn register(registers: &[i64; 23], number: u8) -> i64 {
    use libc::{REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
    let lower = [REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI];
    let upper = |number: u8| libc::REG_R8 as usize + usize::from(number) - 8;
    registers[lower
        .get(usize::from(number))
        .map_or_else(|| upper(number), |place| *place as usize)]
}

/// `tdpbf16ps` on bytes.
fn multiply(sums: &mut Tile, lhs: &Tile, rhs: &Tile) {
    let operand = |tile: &Tile| bytemuck::cast::<Tile, [[Bf16; 32]; ROWS]>(*tile);
    let mut dst = bytemuck::cast::<Tile, [[f32; 16]; ROWS]>(*sums);
    tdpbf16ps(&mut dst, &operand(lhs), &operand(rhs));
    *sums = bytemuck::cast(dst);
}
