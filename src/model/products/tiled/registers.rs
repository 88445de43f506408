//! The tile registers of AMX, which multiply bfloat16 matrices and add in float32: eight registers of 16 rows of 64
//! bytes. One instruction, `tdpbf16ps`, adds the product of 16 × 32 and 32 × 16 elements to 16 × 16 sums in 16 cycles,
//! sixteen times as much as float32 vectors do. Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual",
//! volume 1, chapter 18.

#![expect(unsafe_code, reason = "instructions that Rust has no stable names for")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Rows of a tile: of activations, tokens; of weights, pairs of inputs.
pub(super) const ROWS: usize = 16;

/// Inputs that one tile of activations or weights spans.
pub(super) const INPUTS: usize = 32;

/// Rows and columns of a block of outputs: two tiles by two, so that each loaded tile is used twice.
pub(super) const BLOCK: usize = 2 * ROWS;

/// Tiles of activations for each step of a block: three pieces of two tiles.
pub(super) const X_TILES: usize = 6;

/// One tile's worth of bfloat16, as bits.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub [u16; ROWS * INPUTS]);

impl Default for Tile {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Tile {
    pub(super) const ZERO: Self = Self([0; ROWS * INPUTS]);
}

/// Whether this processor has tiles that multiply bfloat16 and the operating system lets this process use them.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")) {
            return false;
        }
        // Leaf 7 exists wherever AVX-512 does.
        let features = __cpuid_count(7, 0).edx;
        features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE && permitted()
    })
}

/// Asks Linux for the tiles' state, 8 KiB a thread, which it does not save for processes that have not asked.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // SAFETY: the call takes two numbers and grants a permission, or fails.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// This thread's tile registers, all eight of full size, for as long as it lives.
pub(super) struct Tiles(std::marker::PhantomData<*mut ()>);

impl Tiles {
    /// `None` where there are none.
    pub(super) fn configure() -> Option<Self> {
        #[repr(C, align(64))]
        struct Configuration([u8; 64]);
        if !available() {
            return None;
        }
        // Palette 1: bytes a row from byte 16 on, two bytes each; rows from byte 48 on.
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1;
        for tile in 0..8 {
            configuration.0[16 + 2 * tile] = 64;
            configuration.0[48 + tile] = 16;
        }
        // SAFETY: the processor has tiles, the process may use them, and these are 64 bytes of a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) configuration.0.as_ptr(), options(nostack, readonly)) };
        Some(Self(std::marker::PhantomData))
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there is a configuration to release. Nothing else uses the registers: compilers do not, and
        // libraries that do configure them anew.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// A matrix of float32 in memory: its first element and the elements from one row to the next.
#[derive(Clone, Copy)]
pub(super) struct Rows<P> {
    pub first: P,
    pub stride: usize,
}

/// Loads a piece's two tiles of activations.
macro_rules! load_x {
    ($upper:literal, $lower:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {packed}*1 + ",
            $upper,
            "]\ntileloadd tmm5, [{x} + {packed}*1 + ",
            $lower,
            "]\n"
        )
    };
}

/// Loads a piece's two tiles of weights.
macro_rules! load_w {
    ($left:literal, $right:literal) => {
        concat!("tileloadd tmm6, [{w} + {packed}*1 + ", $left, "]\ntileloadd tmm7, [{w} + {packed}*1 + ", $right, "]\n")
    };
}

macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n"
    };
}

/// A step's products with the weights' largest piece: those of all of the activations', the smallest first.
macro_rules! first_piece {
    () => {
        concat!(
            load_w!(0, 1024),
            load_x!(4096, 5120),
            multiply!(),
            load_x!(2048, 3072),
            multiply!(),
            load_x!(0, 1024),
            multiply!(),
        )
    };
}

/// With the second, after the first: the activations' largest is loaded still.
macro_rules! second_piece {
    () => {
        concat!(load_w!(2048, 3072), multiply!(), load_x!(2048, 3072), multiply!())
    };
}

/// With the third, of the activations' largest alone.
macro_rules! third_piece {
    () => {
        concat!(load_w!(4096, 5120), load_x!(0, 1024), multiply!())
    };
}

/// `out ← initial + x wᵀ` for a block, over `steps` steps: each of the strings is what happens in a step.
macro_rules! block {
    ($x:ident, $w:ident, $steps:ident, $initial:ident, $out:ident, $w_bytes:literal, $($step:expr),+) => {
        asm!(
            "tileloadd tmm0, [{initial} + {initial_stride}*1]",
            "tileloadd tmm1, [{initial} + {initial_stride}*1 + 64]",
            "tileloadd tmm2, [{initial_lower} + {initial_stride}*1]",
            "tileloadd tmm3, [{initial_lower} + {initial_stride}*1 + 64]",
            "2:",
            $($step,)+
            "add {x}, 6144",
            concat!("add {w}, ", $w_bytes),
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {out_stride}*1], tmm0",
            "tilestored [{out} + {out_stride}*1 + 64], tmm1",
            "tilestored [{out_lower} + {out_stride}*1], tmm2",
            "tilestored [{out_lower} + {out_stride}*1 + 64], tmm3",
            x = inout(reg) $x => _,
            w = inout(reg) $w => _,
            steps = inout(reg) $steps => _,
            packed = in(reg) 64_usize,
            initial = in(reg) $initial.first,
            initial_lower = in(reg) $initial.first.wrapping_add(ROWS * $initial.stride),
            initial_stride = in(reg) 4 * $initial.stride,
            out = in(reg) $out.first,
            out_lower = in(reg) $out.first.wrapping_add(ROWS * $out.stride),
            out_stride = in(reg) 4 * $out.stride,
            options(nostack),
        )
    };
}

impl Tiles {
    /// `out ← initial + x wᵀ` for a block of outputs. Of every step `x` holds the activations' pieces, largest first, two
    /// tiles each (rows 0 to 15, then 16 to 31), and `w` the weights' (columns likewise), with pairs of inputs side by
    /// side as `tdpbf16ps` wants them. A stride of 0 repeats the first row of `initial`.
    ///
    /// A weight has one to three pieces. Each is multiplied with the three of an activation, but where the product is below
    /// 2⁻²⁴ of the largest: three, five or six products.
    ///
    /// # Safety
    /// [`BLOCK`] elements of each of so many rows can be read from `initial` and written to `out`.
    #[expect(clippy::unused_self, reason = "that the registers are configured")]
    pub(super) unsafe fn block(
        &self,
        pieces: usize,
        x: &[Tile],
        w: &[Tile],
        initial: Rows<*const f32>,
        out: Rows<*mut f32>,
    ) {
        let pieces = pieces.clamp(1, 3);
        let steps = (x.len() / X_TILES).min(w.len() / (2 * pieces));
        if steps == 0 {
            return;
        }
        let (x, w) = (x.as_ptr(), w.as_ptr());
        // SAFETY: the registers are configured; the caller vouches for `initial` and `out`; every step reads the tiles of
        // one step, of which there are as many in both slices.
        unsafe {
            match pieces {
                1 => block!(x, w, steps, initial, out, 2048, first_piece!()),
                2 => block!(x, w, steps, initial, out, 4096, first_piece!(), second_piece!()),
                _ => {
                    block!(x, w, steps, initial, out, 6144, first_piece!(), second_piece!(), third_piece!());
                }
            }
        }
    }
}
