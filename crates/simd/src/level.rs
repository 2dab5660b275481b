//! Detection of the CPU's instruction set, and macros that compile a function for several instruction sets.

use std::sync::OnceLock;

/// The instruction sets that functions are compiled for, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The baseline of the architecture.
    Portable,
    /// x86-64-v3: AVX2 and FMA.
    V3,
    /// x86-64-v4: AVX-512 (F, BW, DQ, VL).
    V4,
}

impl Level {
    /// The best level of this CPU, detected once, or the lower level that a test has chosen.
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
        #[cfg(feature = "test-level")]
        let level = forced_level().map_or(level, |forced| forced.min(level));
        level
    }
}

/// Defines a function whose body is compiled for each [`Level`](crate::Level) and dispatched at run time.
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

                match $crate::Level::detect() {
                    // SAFETY: `Level::detect` found the features that `v4` enables on this CPU.
                    $crate::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: `Level::detect` found the features that `v3` enables on this CPU.
                    $crate::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::Level::Portable => {}
                }
            }
            portable($($arg),*)
        }
    };
}

/// Defines a function that is generic over [`Lanes`](crate::lanes::Lanes), compiled with the registers of each [`Level`](crate::Level) and
/// dispatched at run time.
#[macro_export]
macro_rules! for_lanes {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$lanes:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn generic<$lanes: $crate::lanes::Lanes>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v3($($arg: $ty),*) $(-> $ret)? { generic::<std::arch::x86_64::__m256>($($arg),*) }

                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v4($($arg: $ty),*) $(-> $ret)? { generic::<std::arch::x86_64::__m512>($($arg),*) }

                match $crate::Level::detect() {
                    // SAFETY: `Level::detect` found the features that `v4` enables on this CPU.
                    $crate::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: `Level::detect` found the features that `v3` enables on this CPU.
                    $crate::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::Level::Portable => {}
                }
            }
            generic::<$crate::lanes::F32x4>($($arg),*)
        }
    };
}

#[cfg(feature = "test-level")]
mod test_level {
    use super::Level;
    use std::cell::Cell;
    use std::sync::OnceLock;

    thread_local! {
        /// The level that [`at_each_level`] sets on this thread.
        static THREAD_LEVEL: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// The level that tests use instead of the best one of the CPU: the level that [`at_each_level`] has set on this thread, else the
    /// environment variable `VLCT_TEST_LEVEL` (`portable` or `v3`), else none.
    ///
    /// # Panics
    /// If the variable has another value.
    pub fn forced_level() -> Option<Level> {
        static PROCESS_LEVEL: OnceLock<Option<Level>> = OnceLock::new();
        let read_variable = || match std::env::var("VLCT_TEST_LEVEL").ok()?.as_str() {
            "portable" => Some(Level::Portable),
            "v3" => Some(Level::V3),
            other => panic!("VLCT_TEST_LEVEL must be portable or v3, not {other}"),
        };
        THREAD_LEVEL.get().or_else(|| *PROCESS_LEVEL.get_or_init(read_variable))
    }

    /// Calls `test` once for each level that this CPU has, with that level set on this thread. The level of other threads does not change.
    pub fn at_each_level(mut test: impl FnMut()) {
        let best = Level::detect();
        for level in [Level::Portable, Level::V3, Level::V4] {
            if level <= best {
                THREAD_LEVEL.set(Some(level));
                test();
            }
        }
        THREAD_LEVEL.set(None);
    }
}
#[cfg(feature = "test-level")]
pub use test_level::{at_each_level, forced_level};
