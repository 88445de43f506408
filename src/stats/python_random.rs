//! `CPython`'s `random.Random`, bit for bit, as far as `choices` without weights needs it.
//!
//! MT19937 and `init_by_array` after M. Matsumoto and T. Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998), with the
//! reference code's constants; seeding by an integer and `random()` as in `CPython`'s `Modules/_randommodule.c`.

const STATE_WORDS: usize = 624;
const MIDDLE_WORD: usize = 397;
const UPPER_MASK: u32 = 0x8000_0000;
const TWIST: u32 = 0x9908_b0df;

/// A generator in the state that Python's `random.Random(seed)` starts in.
pub(super) struct PythonRandom {
    state: [u32; STATE_WORDS],
    next: usize,
}

impl PythonRandom {
    /// Seeds as `random.Random(seed)` does: the integer's 32-bit words, lowest first, go through `init_by_array`.
    pub(super) fn from_seed(seed: u64) -> Self {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = seed.to_le_bytes();
        let (low, high) = (u32::from_le_bytes([b0, b1, b2, b3]), u32::from_le_bytes([b4, b5, b6, b7]));
        let words = [low, high];
        let key = if high == 0 { &words[..1] } else { &words[..] };
        Self { state: init_by_array(key), next: STATE_WORDS }
    }

    /// The next number of `random()`: 53 bits, in `[0, 1)`.
    pub(super) fn random(&mut self) -> f64 {
        let (high, low) = (self.next_word() >> 5, self.next_word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// The next index that `choices` would take from a population of this size: `floor(random()·size)`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ random()·size < size")]
    pub(super) fn index(&mut self, population_size: f64) -> usize {
        (self.random() * population_size) as usize
    }

    fn next_word(&mut self) -> u32 {
        if self.next == STATE_WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for k in 0..STATE_WORDS {
            let following = self.state[(k + 1) % STATE_WORDS];
            let joined = (self.state[k] & UPPER_MASK) | (following & !UPPER_MASK);
            let twist = if joined & 1 == 0 { 0 } else { TWIST };
            self.state[k] = self.state[(k + MIDDLE_WORD) % STATE_WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

/// The reference code's `init_genrand(19650218)`.
fn initial_state() -> [u32; STATE_WORDS] {
    let mut state = [19_650_218_u32; STATE_WORDS];
    for (k, number) in (1..STATE_WORDS).zip(1_u32..) {
        state[k] = mixed(state[k - 1]).wrapping_mul(1_812_433_253).wrapping_add(number);
    }
    state
}

/// The reference code's `init_by_array`.
fn init_by_array(key: &[u32]) -> [u32; STATE_WORDS] {
    let mut state = initial_state();
    let mut k = 1;
    let numbered_key = key.iter().zip(0_u32..).cycle();
    for (word, number) in numbered_key.take(STATE_WORDS) {
        state[k] = (state[k] ^ mixed(state[k - 1]).wrapping_mul(1_664_525)).wrapping_add(*word).wrapping_add(number);
        k = following(&mut state, k);
    }
    for _ in 1..STATE_WORDS {
        let number = u32::try_from(k).unwrap_or(u32::MAX);
        state[k] = (state[k] ^ mixed(state[k - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(number);
        k = following(&mut state, k);
    }
    state[0] = UPPER_MASK;
    state
}

fn mixed(word: u32) -> u32 {
    word ^ (word >> 30)
}

/// The index after `k`; after the last one it is 1, and word 0 takes the last word's place.
fn following(state: &mut [u32; STATE_WORDS], k: usize) -> usize {
    if k + 1 < STATE_WORDS {
        return k + 1;
    }
    state[0] = state[STATE_WORDS - 1];
    1
}
