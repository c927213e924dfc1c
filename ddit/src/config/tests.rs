use super::*;
use serde_json::json;

fn transformer() -> Value {
    json!({
        "_class_name": "SD3JointModelFlexible", "vocab_size": 120, "sample_size": 16,
        "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2,
        "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 48,
        "caption_projection_dim": 64, "pooled_projection_dim": 24, "pos_embed_max_size": 12,
        "dual_attention_layers": [], "qk_norm": null,
    })
}

#[test]
fn unknown_keys_survive_a_rewrite() {
    let config: TransformerConfig = serde_json::from_value(transformer()).unwrap();
    config.check().unwrap();
    assert_eq!((config.width(), config.text_embedding), (64, false));
    assert_eq!(serde_json::to_value(&config).unwrap(), transformer());
}

#[test]
fn other_models_are_refused() {
    for (key, value, told) in [
        ("qk_norm", json!("rms_norm"), "qk_norm"),
        ("dual_attention_layers", json!([0, 1]), "dual_attention_layers"),
        ("caption_projection_dim", json!(60), "make 64"),
        ("patch_size", json!(0), "patch_size is 0"),
        ("num_layers", json!(1_u64 << 40), "num_layers is 1099511627776"),
        ("pos_embed_max_size", json!(1 << 14), "16384 x 16384 places of 64"),
        ("text_embedding", json!(true), "max_text_length"),
    ] {
        let mut config = transformer();
        config[key] = value;
        let config: TransformerConfig = serde_json::from_value(config).unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn vae_defaults_are_those_of_its_library() {
    let mut text = json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [6, 12],
        "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 3,
        "scaling_factor": 0.9, "shift_factor": null, "act_fn": "silu",
    });
    let config: VaeConfig = serde_json::from_value(text.clone()).unwrap();
    config.check().unwrap();
    assert!(config.mid_block_add_attention && config.shift_factor.is_none());
    assert_eq!(config.spatial_factor(), 2);
    text["norm_num_groups"] = 4.into();
    let config: VaeConfig = serde_json::from_value(text).unwrap();
    assert!(config.check().unwrap_err().to_string().contains("6 channels"));
}

#[test]
fn an_absent_generation_config_means_the_official_pipeline() {
    let config: GenerationConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(config, GenerationConfig::default());
    assert_eq!((config.recipe, config.steps, config.text_steps), (Recipe::Release, 28, 64));
    let ours = GenerationConfig { recipe: Recipe::Paper, ..config };
    let text = serde_json::to_string(&ours).unwrap();
    assert!(text.contains(r#""recipe":"paper""#) && !text.contains("sampler"));
    ours.check().unwrap();
    for wrong in [r#"{"steps": 0}"#, r#"{"text_steps": 0}"#, r#"{"guidance": -1}"#] {
        let config: GenerationConfig = serde_json::from_str(wrong).unwrap();
        assert!(config.check().is_err(), "{wrong}");
    }
}
