//! The values of the quirks, spelled as `--quirk` takes them.

use super::choices::choices;

choices! {
    /// How the two branches of a parallel residual are reduced.
    Reduction {
        /// One all-reduce for both; each rank adds its row-parallel biases before it.
        Shared = "shared",
        /// One for each branch, biases after it; both branches read one norm. On a branch until 2021-09-29.
        PerBranch = "per-branch",
    }

    /// Input of the MLP's own norm in a parallel residual.
    MlpNormInput {
        Residual = "residual",
        /// The output of the attention's norm. From 2021-09-29 to 2021-10-20.
        AttentionNorm = "attention-norm",
    }

    NormTying {
        /// Attention and MLP share a norm where it is true.
        AsConfigured = "as-configured",
        /// They share one where it is false. From 2022-12-06 to 2022-12-27.
        Inverted = "inverted",
    }

    /// Whether the attention counts in a parallel residual without MLP biases.
    AttentionBranch {
        Kept = "kept",
        /// It is computed and lost. Since 2024-09-10.
        Dropped = "dropped",
    }

    /// The type in which rotary tables are computed.
    RotaryTables {
        /// float32, rounded at the end.
        Float32 = "float32",
        /// The files' type at every step, until 2023-09-25.
        Storage = "storage",
        /// float32, but the angles are rounded to the files' type before cosine and sine (Transformer Engine).
        RoundedAngles = "rounded-angles",
    }

    /// The score of later tokens. Either way their probability is 0, so evaluations do not differ.
    MaskValue {
        Smallest = "smallest",
        /// −10000, until 2023-06-05.
        MinusTenThousand = "minus-10000",
    }

    /// Where rmsnorm adds its epsilon.
    EpsilonPlacement {
        /// `x / √(mean(x²) + ε)`.
        Inside = "inside",
        /// `x / (√mean(x²) + ε)`, until 2025-05-09.
        Outside = "outside",
    }

    /// How queries, keys and values lie where keys and values have fewer heads.
    GqaLayout {
        /// Per rank `[Q | K | V]`.
        Blocks = "blocks",
        /// Query head by query head, each with its share of K and V. From 2024-02-22 to 2024-11-14.
        Interleaved = "interleaved",
    }
}
