//! Which instruction set the machine has, and a macro that compiles a loop for each of them.

use std::sync::OnceLock;

/// Instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine of the architecture has.
    Portable,
    /// AVX2 and FMA.
    V3,
    /// AVX-512 (F, BW, DQ, VL).
    V4,
}

impl Level {
    /// The best level of this machine, found out once.
    pub fn detect() -> Level {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        let level = *LEVEL.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                let avx512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                if avx512 && is_x86_feature_detected!("fma") {
                    return Level::V4;
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return Level::V3;
                }
            }
            Level::Portable
        });
        #[cfg(test)]
        let level = tests::forced().map_or(level, |forced| forced.min(level));
        level
    }
}

/// Defines a function whose body is compiled for each [`Level`] and dispatched at run time.
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v3($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }

                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v4($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }

                match $crate::simd::Level::detect() {
                    // SAFETY: `Level::detect` found these features on this machine.
                    $crate::simd::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            portable($($arg),*)
        }
    };
}
pub use multiversion;

/// Defines a function that is generic over [`crate::lanes::Lanes`], compiled for each [`Level`] with its registers and
/// dispatched at run time.
macro_rules! for_lanes {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$lanes:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn any<$lanes: $crate::lanes::Lanes>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v3($($arg: $ty),*) $(-> $ret)? { any::<std::arch::x86_64::__m256>($($arg),*) }

                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v4($($arg: $ty),*) $(-> $ret)? { any::<std::arch::x86_64::__m512>($($arg),*) }

                match $crate::simd::Level::detect() {
                    // SAFETY: `Level::detect` found these features on this machine.
                    $crate::simd::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            any::<$crate::lanes::Four>($($arg),*)
        }
    };
}
pub(crate) use for_lanes;

#[cfg(test)]
pub(crate) mod tests {
    use super::Level;
    use std::cell::Cell;
    use std::sync::OnceLock;

    thread_local! {
        /// What the machine is taken for by this thread.
        static LEVEL: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// What the machine is to be taken for: by this thread, or by all tests, if `VLCT_TEST_LEVEL` says `portable` or `v3`.
    /// With `tiles` it is taken for what it is, and [`crate::bf16`] for having a matrix unit.
    pub(super) fn forced() -> Option<Level> {
        static OF_ALL: OnceLock<Option<Level>> = OnceLock::new();
        let of_all = || match std::env::var("VLCT_TEST_LEVEL").ok()?.as_str() {
            "portable" => Some(Level::Portable),
            "v3" => Some(Level::V3),
            "tiles" => None,
            other => panic!("VLCT_TEST_LEVEL is portable, v3 or tiles, not {other}"),
        };
        LEVEL.get().or_else(|| *OF_ALL.get_or_init(of_all))
    }

    /// Calls `test` once for each level that this machine has, as if it were the best one. Other threads do not know of it.
    pub(crate) fn at_each_level(mut test: impl FnMut()) {
        let best = Level::detect();
        for level in [Level::Portable, Level::V3, Level::V4] {
            if level <= best {
                LEVEL.set(Some(level));
                test();
            }
        }
        LEVEL.set(None);
    }

    #[test]
    fn all_tests_pass_with_other_instructions() {
        if std::env::var_os("VLCT_TEST_LEVEL").is_some() {
            return;
        }
        let program = std::env::current_exe().expect("this program's path");
        // The code around a matrix unit needs instructions that cannot be emulated as well.
        let tiles = cfg!(target_os = "linux") && crate::bf16::support() == crate::bf16::Support::Vectors;
        for level in ["portable", "v3"].into_iter().chain(tiles.then_some("tiles")) {
            let output = std::process::Command::new(&program)
                .env("VLCT_TEST_LEVEL", level)
                .output()
                .expect("this program starts");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "as {level}:\n{text}");
        }
    }
}
