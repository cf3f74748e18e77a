//! The names of weights in other programs' files.

/// Whose names a file of a network has.
///
/// Prefixes of wrappers (`module.`, `backbone.`, ...) are taken off for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in this crate. MONAI's ResNet, and so the published Glance, has the same names.
    Own,
    /// MONAI's SwinUNETR and those who build on it: GF-Screen's Focus, VoCo, SuPreM, MG-3D.
    SwinUnetr,
    /// MONAI's DynUNet.
    DynUnet,
    /// nnU-Net's residual-encoder U-Net.
    NnUnet,
    /// The U-Net of Models Genesis and SuPreM.
    Unet3d,
    /// MONAI's UNETR.
    Unetr,
}

/// What PyTorch's and the authors' wrappers put before a name.
const WRAPPERS: [&str; 7] = ["module.", "_orig_mod.", "backbone.", "model.", "net.", "network.", "student."];

impl Layout {
    /// Our name for a tensor of a file; `None` for a second name of the same weights and for tables that are computed.
    pub fn own(self, name: &str) -> Option<String> {
        let mut name = name;
        while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
            name = rest;
        }
        if name.ends_with(".num_batches_tracked") || name.ends_with(".relative_position_index") {
            return None;
        }
        match self {
            Layout::Own => Some(name.to_owned()),
            Layout::SwinUnetr => Some(swin_own(name)),
            Layout::DynUnet if name.starts_with("skip_layers.") => None,
            Layout::DynUnet => Some(below_encoder(name, &["input_block", "downsamples", "bottleneck"])),
            Layout::NnUnet => (!name.starts_with("decoder.encoder.") && !name.contains(".all_modules.")).then(|| name.to_owned()),
            // MONAI makes cross-attention and never runs it.
            Layout::Unetr if name.contains("cross_attn.") => None,
            Layout::Unetr => Some(unetr_own(name).unwrap_or_else(|| name.to_owned())),
            Layout::Unet3d => Some(unet3d_own(name).unwrap_or_else(|| name.to_owned())),
        }
    }

    /// The name of our tensor in published files: MONAI's, nnU-Net's, Models Genesis's.
    pub fn published(self, own: &str) -> String {
        match self {
            Layout::Own | Layout::NnUnet => own.to_owned(),
            Layout::SwinUnetr | Layout::DynUnet => own.strip_prefix("encoder.").unwrap_or(own).to_owned(),
            Layout::Unetr => unetr_published(own).unwrap_or_else(|| own.to_owned()),
            Layout::Unet3d => unet3d_published(own).unwrap_or_else(|| own.to_owned()),
        }
    }
}

/// `name` below `encoder.` if its first part is one of `parts`.
fn below_encoder(name: &str, parts: &[&str]) -> String {
    let first = name.split('.').next().unwrap_or_default();
    if parts.contains(&first) { format!("encoder.{name}") } else { name.to_owned() }
}

fn swin_own(name: &str) -> String {
    // VoCo's, MG-3D's and MONAI's self-supervised files.
    let name = match (name.strip_prefix("swin_vit."), name.strip_prefix("vision_encoder.")) {
        (Some(rest), _) | (_, Some(rest)) => format!("swinViT.{rest}"),
        _ if name.starts_with("patch_embed.") || name.starts_with("layers") => format!("swinViT.{name}"),
        _ => name.to_owned(),
    };
    let name = name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.");
    below_encoder(&name, &["swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"])
}

/// `down_tr128.ops.0.conv1.bias` -> `encoder.levels.1.0.conv1.bias`.
fn unet3d_own(name: &str) -> Option<String> {
    let level = |width: &str| (0..6).find(|level| width == (64u32 << level).to_string());
    if let Some((width, rest)) = name.strip_prefix("down_tr").and_then(|rest| rest.split_once(".ops.")) {
        return Some(format!("encoder.levels.{}.{rest}", level(width)?));
    }
    if let Some((width, rest)) = name.strip_prefix("up_tr").and_then(|rest| rest.split_once('.')) {
        return Some(format!("decoder.{}.{rest}", level(width)?));
    }
    name.strip_prefix("out_tr.final_conv.").map(|rest| format!("head.{rest}"))
}

fn unet3d_published(own: &str) -> Option<String> {
    let width = |level: &str| level.parse().ok().filter(|level| *level < 6).map(|level: u32| 64u32 << level);
    if let Some((level, rest)) = own.strip_prefix("encoder.levels.").and_then(|rest| rest.split_once('.')) {
        return Some(format!("down_tr{}.ops.{rest}", width(level)?));
    }
    if let Some((level, rest)) = own.strip_prefix("decoder.").and_then(|rest| rest.split_once('.')) {
        return Some(format!("up_tr{}.{rest}", width(level)?));
    }
    own.strip_prefix("head.").map(|rest| format!("out_tr.final_conv.{rest}"))
}

/// Names within the transformer: MONAI's, and ours.
const UNETR_VIT: [(&str, &str); 3] = [
    ("patch_embedding.patch_embeddings.", "patch_embed.proj."),
    ("patch_embedding.position_embeddings", "patch_embed.positions"),
    (".attn.out_proj.", ".attn.proj."),
];

/// `encoder3.blocks.0.1.conv1.conv.weight` -> `encoder.encoders.1.blocks.0.block.layer.conv1.conv.weight`; `decoder5.x` -> `decoders.0.x`.
fn unetr_own(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("vit.") {
        return Some(UNETR_VIT.iter().fold(format!("encoder.vit.{rest}"), |name, (theirs, ours)| name.replace(theirs, ours)));
    }
    let (part, rest) = name.split_once('.')?;
    if let Some(number) = part.strip_prefix("decoder") {
        return Some(format!("decoders.{}.{rest}", 5usize.checked_sub(number.parse().ok()?)?));
    }
    let number: usize = part.strip_prefix("encoder")?.parse().ok()?;
    if number == 1 {
        return Some(format!("encoder.{name}"));
    }
    let rest = match rest.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((step, rest)) => {
            let (which, rest) = rest.split_once('.')?;
            let own = if which == "0" { format!("transp_conv.{}", rest.strip_prefix("conv.")?) } else { format!("block.layer.{rest}") };
            format!("blocks.{step}.{own}")
        }
        None => format!("transp_conv_init.{}", rest.strip_prefix("transp_conv_init.conv.")?),
    };
    Some(format!("encoder.encoders.{}.{rest}", number.checked_sub(2)?))
}

fn unetr_published(own: &str) -> Option<String> {
    if let Some(rest) = own.strip_prefix("decoders.") {
        let (number, rest) = rest.split_once('.')?;
        return Some(format!("decoder{}.{rest}", 5usize.checked_sub(number.parse().ok()?)?));
    }
    let own = own.strip_prefix("encoder.")?;
    if own.starts_with("vit.") {
        return Some(UNETR_VIT.iter().fold(own.to_owned(), |name, (theirs, ours)| name.replace(ours, theirs)));
    }
    let Some((number, rest)) = own.strip_prefix("encoders.").and_then(|rest| rest.split_once('.')) else { return Some(own.to_owned()) };
    let rest = match rest.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((step, rest)) => match rest.strip_prefix("transp_conv.") {
            Some(rest) => format!("blocks.{step}.0.conv.{rest}"),
            None => format!("blocks.{step}.1.{}", rest.strip_prefix("block.layer.")?),
        },
        None => format!("transp_conv_init.conv.{}", rest.strip_prefix("transp_conv_init.")?),
    };
    Some(format!("encoder{}.{rest}", number.parse::<usize>().ok()? + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::any::tests::each_kind;
    use crate::nets::{Init, golden};
    use crate::weights;
    use burn::backend::Flex;

    #[test]
    fn files_of_others_are_understood() {
        use Layout::*;
        for (layout, name, own) in [
            (Own, "module.layer1.0.conv1.weight", Some("layer1.0.conv1.weight")),
            (Own, "layer1.0.bn1.num_batches_tracked", None),
            (SwinUnetr, "swinViT.layers1.0.blocks.0.attn.relative_position_index", None),
            (SwinUnetr, "module.backbone.swin_vit.layers1.0.x", Some("encoder.swinViT.layers1.0.x")),
            (SwinUnetr, "module.patch_embed.proj.bias", Some("encoder.swinViT.patch_embed.proj.bias")),
            (SwinUnetr, "swinViT.layers1.0.blocks.0.mlp.fc1.bias", Some("encoder.swinViT.layers1.0.blocks.0.mlp.linear1.bias")),
            (SwinUnetr, "vision_encoder.layers4.0.x", Some("encoder.swinViT.layers4.0.x")),
            (SwinUnetr, "encoder10.layer.x", Some("encoder.encoder10.layer.x")),
            (SwinUnetr, "encoder.encoder10.layer.x", Some("encoder.encoder10.layer.x")),
            (SwinUnetr, "net.decoder5.x", Some("decoder5.x")),
            (DynUnet, "skip_layers.downsample.conv1.conv.weight", None),
            (DynUnet, "bottleneck.norm1.bias", Some("encoder.bottleneck.norm1.bias")),
            (NnUnet, "_orig_mod.encoder.stem.convs.0.norm.bias", Some("encoder.stem.convs.0.norm.bias")),
            (NnUnet, "encoder.stem.convs.0.all_modules.1.bias", None),
            (NnUnet, "decoder.encoder.stem.convs.0.norm.bias", None),
            (Unet3d, "module.backbone.down_tr256.ops.1.bn1.weight", Some("encoder.levels.2.1.bn1.weight")),
            (Unet3d, "up_tr64.up_conv.bias", Some("decoder.0.up_conv.bias")),
            (Unet3d, "out_tr.final_conv.weight", Some("head.weight")),
            (Unetr, "module.vit.blocks.3.attn.out_proj.bias", Some("encoder.vit.blocks.3.attn.proj.bias")),
            (Unetr, "vit.patch_embedding.position_embeddings", Some("encoder.vit.patch_embed.positions")),
            (Unetr, "vit.blocks.3.norm_cross_attn.bias", None),
            (Unetr, "encoder1.layer.conv3.conv.weight", Some("encoder.encoder1.layer.conv3.conv.weight")),
            (Unetr, "encoder2.blocks.1.0.conv.weight", Some("encoder.encoders.0.blocks.1.transp_conv.weight")),
            (Unetr, "encoder.encoders.0.blocks.1.transp_conv.weight", Some("encoder.encoders.0.blocks.1.transp_conv.weight")),
            (Unetr, "decoder5.conv_block.conv1.conv.weight", Some("decoders.0.conv_block.conv1.conv.weight")),
            (Unetr, "decoder6.x", Some("decoder6.x")),
            (Unet3d, "down_tr65.ops.1.x", Some("down_tr65.ops.1.x")),
        ] {
            assert_eq!(layout.own(name).as_deref(), own, "{name}");
        }
    }

    #[test]
    fn published_names_are_the_way_back() {
        for config in each_kind() {
            let model = config.build::<Flex>(1, 2, &Init::new(0, "focus", &Default::default())).unwrap();
            for (name, _) in weights::shapes(&model) {
                let published = config.layout().published(&name);
                assert_eq!(config.layout().own(&published), Some(name));
            }
        }
    }

    #[test]
    fn published_names_are_monais() {
        let entry = golden::entry("swin_merging_fixed");
        let config = crate::nets::SwinUnetrConfig { feature_size: 12, ..Default::default() };
        let model = config.init::<Flex>(1, 2, &Init::new(0, "focus", &Default::default())).unwrap();
        let mut found: Vec<String> = weights::shapes(&model).iter().map(|(name, _)| Layout::SwinUnetr.published(name)).collect();
        let keys = entry["keys"].as_array().unwrap().iter().filter(|row| row[2] != "int");
        let mut expected: Vec<&str> = keys.map(|row| row[0].as_str().unwrap()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}
