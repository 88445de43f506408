//! Row orders of Megatron's matrices → those of the partition table. Copies bytes; the one arithmetic is the 1 that is added
//! to gains stored without it.

use super::rank_file::QkvVersion;
use crate::config::{Architecture, QkvLayout};
use crate::partition::{Kind, Role};
use crate::tensor::{DType, HostTensor, TensorError};

/// How a rank's tensors differ from what the partition table describes.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowOrders {
    pub version: QkvVersion,
    /// Elements of a head that are rotated in pairs (0, 1), (2, 3), … instead of in halves; 0 for none.
    pub paired: usize,
    /// Whether norms add 1 to their stored gain.
    pub zero_centred: bool,
}

impl RowOrders {
    /// The type in which a parameter of this kind is returned.
    pub(super) fn dtype(self, kind: Kind, stored: DType) -> DType {
        if self.zero_centred && kind == Kind::NormGain { DType::F32 } else { stored }
    }

    /// A rank's tensor in the order of the partition table.
    pub(super) fn arrange(
        self,
        architecture: &Architecture,
        (role, kind): (Role, Kind),
        tp_size: usize,
        shard: HostTensor,
    ) -> Result<HostTensor, TensorError> {
        let shard = if self.zero_centred && kind == Kind::NormGain { plus_one(&shard)? } else { shard };
        match role {
            Role::QkvWeight | Role::QkvBias => shard.in_row_order(&self.qkv_rows(architecture, tp_size)),
            Role::QueryNormGain | Role::QueryNormBias | Role::KeyNormGain | Role::KeyNormBias => {
                let rows: Vec<_> = (0..architecture.head_size).map(|element| self.element(element)).collect();
                shard.in_row_order(&rows)
            }
            // Megatron's are [gate | up] in each rank.
            Role::MlpInputWeight | Role::MlpInputBias if architecture.gated => {
                let inner = architecture.mlp_inner_size / tp_size.max(1);
                shard.in_row_order(&(inner..2 * inner).chain(0..inner).collect::<Vec<_>>())
            }
            _ => Ok(shard),
        }
    }

    /// Where the element of a rotated head lies: halves from pairs.
    fn element(self, element: usize) -> usize {
        let half = self.paired / 2;
        match element {
            _ if element < half => 2 * element,
            _ if element < self.paired => 2 * (element - half) + 1,
            _ => element,
        }
    }

    /// The stored row of each row of a rank's matrix.
    fn qkv_rows(self, architecture: &Architecture, tp_size: usize) -> Vec<usize> {
        let ranks = tp_size.max(1);
        let (heads, groups) = (architecture.head_count / ranks, architecture.kv_head_count / ranks);
        let size = architecture.head_size;
        let queries = heads / groups.max(1);
        let of_head = |head: usize| (head * size..(head + 1) * size).collect::<Vec<_>>();
        // The stored rows of a head of queries (part 0), keys or values.
        let stored = |part: usize, head: usize| match self.version {
            QkvVersion::Parts => of_head(part * heads + head),
            QkvVersion::Elements => (0..size).map(|element| (head * size + element) * 3 + part).collect(),
            QkvVersion::Heads if part == 0 => of_head(head / queries * (queries + 2) + head % queries),
            QkvVersion::Heads => of_head(head * (queries + 2) + queries + part - 1),
        };
        let rotated = |part: usize, head: usize| {
            let rows = stored(part, head);
            (0..size).map(|element| rows[if part == 2 { element } else { self.element(element) }]).collect::<Vec<_>>()
        };
        let order: Vec<(usize, usize)> = if architecture.qkv == QkvLayout::Interleaved {
            (0..heads).flat_map(|head| [(0, head), (1, head), (2, head)]).collect()
        } else {
            let parts = [(0, heads), (1, groups), (2, groups)];
            parts.into_iter().flat_map(|(part, count)| (0..count).map(move |head| (part, head))).collect()
        };
        order.into_iter().flat_map(|(part, head)| rotated(part, head)).collect()
    }
}

/// A gain from what is stored of it, computed and kept in float32, as Transformer Engine and Megatron's fused norms do.
fn plus_one(stored: &HostTensor) -> Result<HostTensor, TensorError> {
    #[expect(clippy::cast_possible_truncation, reason = "stored in float32 or fewer bits")]
    let gains = stored.to_f64()?.into_iter().map(|value| f64::from(value as f32 + 1.0)).collect::<Vec<_>>();
    HostTensor::from_f64(DType::F32, stored.shape().to_vec(), &gains)
}
