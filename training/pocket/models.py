"""The pocket architectures: SD3 and SDXL pipelines of the real classes, small enough to ship, untrained."""

from __future__ import annotations

import math

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIDE = 128  # pixels
LATENT_CHANNELS = 16
TEXT_WIDTHS = (128, 192)
T5_LENGTHS = 256  # diffusers' default count of zero tokens where SD3 has no T5


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=SIDE,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
    )


def pocket_sd3(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, encoders: list[CLIPTextModelWithProjection]
) -> StableDiffusion3Pipeline:
    width, heads = 192, 3
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=width // heads,
        num_attention_heads=heads,
        joint_attention_dim=sum(TEXT_WIDTHS),
        caption_projection_dim=width,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=SIDE // 8,
        qk_norm="rms_norm",
    )
    # Blocks start as the identity and the whole as zero (Peebles & Xie 2023, adaLN-Zero).
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            torch.nn.init.zeros_(norm.linear.weight)
            torch.nn.init.zeros_(norm.linear.bias)
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def without_projection(encoder: CLIPTextModelWithProjection) -> CLIPTextModel:
    """SDXL takes its first encoder as a CLIPTextModel: the same weights less the projection."""
    bare = CLIPTextModel(encoder.config)
    bare.load_state_dict(encoder.text_model.state_dict())  # transformers 5: a CLIPTextModel is its own text_model
    return bare


def pocket_sdxl(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, encoders: list[CLIPTextModelWithProjection]
) -> StableDiffusionXLPipeline:
    time_width = 8
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 4),  # heads of 32, whatever the name says
        norm_num_groups=16,
        cross_attention_dim=sum(TEXT_WIDTHS),
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",  # pooled words steer every convolution, as in ADM
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=TEXT_WIDTHS[1] + 6 * time_width,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=without_projection(encoders[0]),
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,  # plain backgrounds need the last step to be pure noise (Lin et al. 2024)
            timestep_spacing="trailing",
        ),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


class CountedZeroToken:
    """Joint attention in which the last context token stands for `count` equal ones.

    Without T5, diffusers appends up to 256 zero tokens to SD3's context. Attention to n equal keys is attention to
    one key with log n added, so one token and a random n in training make every length draw alike.
    """

    def __init__(self) -> None:
        self.bias = torch.zeros(1)

    def draw(self, batch: int) -> None:
        """New counts for a batch, evenly spread in their logarithm."""
        self.bias = torch.rand(batch) * math.log(T5_LENGTHS)

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, tokens, _width = hidden_states.shape

        def split(x: torch.Tensor) -> torch.Tensor:
            return x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        query = torch.cat(
            [attn.norm_q(split(attn.to_q(hidden_states))),
             attn.norm_added_q(split(attn.add_q_proj(encoder_hidden_states)))], 2
        )  # fmt: skip
        key = torch.cat(
            [attn.norm_k(split(attn.to_k(hidden_states))),
             attn.norm_added_k(split(attn.add_k_proj(encoder_hidden_states)))], 2
        )  # fmt: skip
        value = torch.cat([split(attn.to_v(hidden_states)), split(attn.add_v_proj(encoder_hidden_states))], 2)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        bias = torch.zeros(batch, 1, 1, key.shape[2])
        bias[..., -1] = self.bias[:, None, None]
        mixed = (scores + bias).softmax(-1).to(value.dtype) @ value
        mixed = mixed.transpose(1, 2).reshape(batch, -1, attn.heads * value.shape[-1])
        image, context = mixed[:, :tokens], mixed[:, tokens:]
        if not attn.context_pre_only:
            context = attn.to_add_out(context)
        return attn.to_out[0](image), context
