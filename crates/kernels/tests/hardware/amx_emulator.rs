//! An emulator of AMX, for CPUs without it: the CPU raises SIGILL for AMX instructions, and the signal handler executes them.
//!
//! Only the instructions and operands of `bf16/engine/amx.rs` are supported.

use std::cell::UnsafeCell;
use std::sync::Once;
use vlct_kernels::bf16::Bf16;
use vlct_kernels::bf16::engine::tdpbf16ps;

/// Number of rows of a tile.
const ROWS: usize = 16;

/// Size of a row of a tile in bytes.
const ROW_BYTES: usize = 64;

type Tile = [[u8; ROW_BYTES]; ROWS];

/// The tile registers of a thread.
struct TileRegisters {
    configured: bool,
    tiles: [Tile; 8],
}

thread_local! {
    /// The cell is initialised with a constant and has no destructor, so that a signal handler may access it.
    static TILES: UnsafeCell<TileRegisters> =
        const { UnsafeCell::new(TileRegisters { configured: false, tiles: [[[0; ROW_BYTES]; ROWS]; 8] }) };
}

/// Installs the signal handler for the whole process.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handler has the signature that `SA_SIGINFO` requires, and is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal_instruction as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// Emulates the instruction that raised the signal and continues after it. Ends the program if the instruction is not supported.
extern "C" fn on_illegal_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the registers of the interrupted code, and RIP points to an instruction; tests use valid addresses.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = registers[libc::REG_RIP as usize] as *const u8;
        match TILES.with(|state| execute(code, registers, &mut *state.get())) {
            Some(length) => registers[libc::REG_RIP as usize] += length as i64,
            None => {
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// Executes the instruction at `code` and returns its length, or `None` if it is not supported.
///
/// # Safety
/// `code` points to an instruction, and its memory operand is valid for all bytes that the instruction accesses.
unsafe fn execute(code: *const u8, registers: &[i64; 23], state: &mut TileRegisters) -> Option<usize> {
    // SAFETY: a byte is read only if the bytes before it imply that it belongs to the instruction.
    let byte = |i: usize| unsafe { *code.add(i) };
    // A three-byte VEX prefix with opcode map 0F 38, L = 0, W = 0. Its register bits are stored inverted.
    if byte(0) != 0xc4 || byte(1) & 0x1f != 2 || byte(2) & 0x84 != 0 {
        return None;
    }
    let (x, b) = (!byte(1) >> 6 & 1, !byte(1) >> 5 & 1);
    let (prefix, vvvv, opcode) = (byte(2) & 3, usize::from(!byte(2) >> 3 & 15), byte(3));
    let modrm = byte(4);
    let (mode, tile, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    if mode == 3 {
        match (opcode, prefix) {
            (0x49, 0) if modrm == 0xc0 => state.configured = false, // tilerelease
            _ if !state.configured => return None,
            (0x49, 3) => state.tiles[tile] = [[0; ROW_BYTES]; ROWS], // tilezero
            (0x5c, 2) => {
                let (lhs, rhs) = (state.tiles[rm], state.tiles[vvvv]);
                multiply(&mut state.tiles[tile], &lhs, &rhs);
            }
            _ => return None,
        }
        return Some(5);
    }
    let (base, index, scale, end) = if rm == 4 {
        let sib = byte(5);
        let index = sib >> 3 & 7 | x << 3;
        ((sib & 7) | b << 3, (index != 4).then_some(index), sib >> 6, 6)
    } else {
        (modrm & 7 | b << 3, None, 0, 5)
    };
    let (offset, length) = match mode {
        // With mode 0, these encodings have no base register.
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
        // SAFETY: the memory operand of `ldtilecfg` is valid for 64 bytes (caller).
        let config = unsafe { std::slice::from_raw_parts(start, 64) };
        let is_full_size = |i: usize| config[16 + 2 * i] == ROW_BYTES as u8 && config[48 + i] == ROWS as u8;
        *state = TileRegisters {
            configured: config[0] == 1 && (0..8).all(is_full_size),
            tiles: [[[0; ROW_BYTES]; ROWS]; 8],
        };
        return state.configured.then_some(length);
    }
    // A CPU accepts unaligned rows, but at half the speed; the emulator rejects them.
    if opcode != 0x4b
        || !state.configured
        || start.align_offset(ROW_BYTES) != 0
        || !(stride as usize).is_multiple_of(ROW_BYTES)
    {
        return None;
    }
    for (r, row) in state.tiles[tile].iter_mut().enumerate() {
        let memory = start.wrapping_offset(stride * r as isize).cast::<[u8; ROW_BYTES]>();
        // SAFETY: the memory operand is valid for each row of the tile (caller).
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

/// Returns the general-purpose register with this number in instruction encodings.
fn register(registers: &[i64; 23], number: u8) -> i64 {
    use libc::{REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
    let first_eight = [REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI];
    let r8_to_r15 = |number: u8| libc::REG_R8 as usize + usize::from(number) - 8;
    registers[first_eight
        .get(usize::from(number))
        .map_or_else(|| r8_to_r15(number), |index| *index as usize)]
}

/// Executes `tdpbf16ps` on tiles.
fn multiply(sums: &mut Tile, lhs: &Tile, rhs: &Tile) {
    let operand = |tile: &Tile| bytemuck::cast::<Tile, [[Bf16; 32]; ROWS]>(*tile);
    let mut dst = bytemuck::cast::<Tile, [[f32; 16]; ROWS]>(*sums);
    tdpbf16ps(&mut dst, &operand(lhs), &operand(rhs));
    *sums = bytemuck::cast(dst);
}
