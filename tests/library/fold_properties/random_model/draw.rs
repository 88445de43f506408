//! Drawing a stage: replicas that have drifted, shards, norm biases in balance.

use std::collections::BTreeMap;

use super::*;

pub(super) struct Draw<'a> {
    pub(super) design: &'a Design,
    pub(super) random: ChaCha12Rng,
}

impl Draw<'_> {
    pub(super) fn stage(&mut self, id: StageId, kinds: &[StageKind]) -> (StageTensors, Vec<Shards>) {
        let table = PartitionTable::new(&self.design.architecture);
        let tp_size = self.design.tp_size;
        let mut drawn: BTreeMap<Role, (&Row, Vec<Vec<f64>>)> = BTreeMap::new();
        for row in kinds.iter().flat_map(|&kind| table.required(kind)) {
            let ranks = if row.kind.is_replicated() { self.replicas(row) } else { self.shards(row) };
            drawn.insert(row.role, (row, ranks));
        }
        if self.design.norm_biases == NormBiases::Balanced {
            balance(&mut drawn);
        }
        let mut shards = vec![Shards::new(); tp_size];
        let mut params = BTreeMap::new();
        for (role, (row, ranks)) in drawn {
            let shape = row.rank_shape(&self.design.architecture, tp_size).unwrap();
            let tensors: Vec<_> = ranks
                .iter()
                .map(|values| HostTensor::from_f64(self.design.dtype, shape.clone(), values).unwrap())
                .collect();
            for (shards, tensor) in shards.iter_mut().zip(&tensors) {
                shards.insert(role, tensor.to_f64().unwrap());
            }
            let value = match row.partition(&self.design.architecture) {
                None => ParamValue::Replicas(tensors),
                Some(partition) => ParamValue::Joined(join(&partition, &tensors).unwrap()),
            };
            params.insert(role, Param { name: row.names[0].to_owned(), kind: row.kind, value });
        }
        (StageTensors { id, tp_size, params }, shards)
    }

    /// One shard per rank, of standard deviation near 1 / √columns.
    fn shards(&mut self, row: &Row) -> Vec<Vec<f64>> {
        let shape = row.rank_shape(&self.design.architecture, self.design.tp_size).unwrap();
        let joined = (row.shape)(&self.design.architecture);
        let columns = joined.get(1).map_or(4, |&columns| columns);
        let scale = if row.role == Role::WordEmbedding { 1.0 } else { 1.7 / to_f64(columns).sqrt() };
        let count = shape.iter().product();
        (0..self.design.tp_size).map(|_| self.uniform(count, scale)).collect()
    }

    /// One replica per rank.
    fn replicas(&mut self, row: &Row) -> Vec<Vec<f64>> {
        let design = self.design;
        let count: usize = (row.shape)(&design.architecture).iter().product();
        let (common, drifts) = match row.kind {
            Kind::NormGain => (self.gains(count), design.drifting.gains),
            Kind::NormBias if design.norm_biases == NormBiases::Zero => (vec![0.0; count], false),
            Kind::NormBias => (self.uniform(count, 0.3), design.drifting.norm_biases),
            Kind::RowParallelBias if !design.row_biases => (vec![0.0; count], false),
            Kind::RowParallelBias => (self.uniform(count, 0.5), design.drifting.row_biases),
            _ => (self.uniform(count, 0.5), design.drifting.positions),
        };
        let crossing = row.kind == Kind::NormGain && design.gains == Gains::Crossing;
        let replica = |_| {
            let drifted: Vec<f64> = common
                .iter()
                .map(|value| {
                    let crossed = if crossing && self.random.random_bool(0.1) {
                        // A scalenorm whose only gain is 0 makes every merge exact.
                        if count > 1 && self.random.random_bool(0.5) { 0.0 } else { -1.0 }
                    } else {
                        1.0
                    };
                    value * crossed * (1.0 + design.drift * self.random.random_range(-1.0..1.0))
                })
                .collect();
            if drifts && design.drift > 0.0 { drifted } else { common.clone() }
        };
        (0..design.tp_size).map(replica).collect()
    }

    fn gains(&mut self, count: usize) -> Vec<f64> {
        let style = self.design.gains;
        let mut gains: Vec<f64> = self.uniform(count, 0.3).into_iter().map(|value| 1.0 + value).collect();
        // The first stays as it is: a norm of zeros alone makes every merge exact.
        for gain in gains.iter_mut().skip(1) {
            if self.random.random_bool(0.25) {
                *gain *= match style {
                    Gains::AroundOne | Gains::Crossing => 1.0,
                    Gains::SomeZero => 0.0,
                    Gains::SomeNegative => -1.0,
                    Gains::SomeTiny => 1e-6,
                };
            }
        }
        gains
    }

    fn uniform(&mut self, count: usize, scale: f64) -> Vec<f64> {
        (0..count).map(|_| self.random.random_range(-scale..scale)).collect()
    }
}

/// Changes the biases as little as makes Σ(β/γ) of the mean bias and the mean gain 0.
fn balance(drawn: &mut BTreeMap<Role, (&Row, Vec<Vec<f64>>)>) {
    let norms = [
        (Role::InputNormGain, Role::InputNormBias),
        (Role::MlpNormGain, Role::MlpNormBias),
        (Role::FinalNormGain, Role::FinalNormBias),
    ];
    for (gain, bias) in norms {
        let (Some((_, gains)), true) = (drawn.get(&gain), drawn.contains_key(&bias)) else { continue };
        let inverse: Vec<f64> =
            mean(gains).into_iter().map(|gain| if gain == 0.0 { 1.0 } else { 1.0 / gain }).collect();
        let (_, biases) = drawn.get_mut(&bias).unwrap();
        let sum: f64 = mean(biases).iter().zip(&inverse).map(|(bias, inverse)| bias * inverse).sum();
        let square: f64 = inverse.iter().map(|inverse| inverse * inverse).sum();
        for (bias, inverse) in biases.iter_mut().flat_map(|replica| replica.iter_mut().zip(&inverse)) {
            *bias -= sum / square * inverse;
        }
    }
}

fn mean(replicas: &[Vec<f64>]) -> Vec<f64> {
    let sum = |at| replicas.iter().map(|replica: &Vec<f64>| replica[at]).sum::<f64>();
    (0..replicas[0].len()).map(|at| sum(at) / to_f64(replicas.len())).collect()
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
