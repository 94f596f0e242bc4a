"""The papers that `cite` knows, and which name of this package stands for which of them."""

#: key: authors, title, where, year. Where is a conference, "arXiv:NUMBER", or a journal with its volume.
PAPERS: dict[str, tuple[str, str, str, int]] = {
    "song2021scoresde": (
        "Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano and "
        "Poole, Ben",
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        "International Conference on Learning Representations",
        2021,
    ),
    "song2019ncsn": (
        "Song, Yang and Ermon, Stefano",
        "Generative Modeling by Estimating Gradients of the Data Distribution",
        "Advances in Neural Information Processing Systems",
        2019,
    ),
    "song2020ncsnv2": (
        "Song, Yang and Ermon, Stefano",
        "Improved Techniques for Training Score-Based Generative Models",
        "Advances in Neural Information Processing Systems",
        2020,
    ),
    "ho2020ddpm": (
        "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
        "Denoising Diffusion Probabilistic Models",
        "Advances in Neural Information Processing Systems",
        2020,
    ),
    "song2021ddim": (
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
        "Denoising Diffusion Implicit Models",
        "International Conference on Learning Representations",
        2021,
    ),
    "zhang2023deis": (
        "Zhang, Qinsheng and Chen, Yongxin",
        "Fast Sampling of Diffusion Models with Exponential Integrator",
        "International Conference on Learning Representations",
        2023,
    ),
    "lu2022dpmsolver": (
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "{DPM-Solver}: A Fast {ODE} Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
        "Advances in Neural Information Processing Systems",
        2022,
    ),
    "xu2023restart": (
        "Xu, Yilun and Deng, Mingyang and Cheng, Xiang and Tian, Yonglong and Liu, Ziming and Jaakkola, Tommi",
        "Restart Sampling for Improving Generative Processes",
        "Advances in Neural Information Processing Systems",
        2023,
    ),
    "karras2022edm": (
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        "Advances in Neural Information Processing Systems",
        2022,
    ),
    "salimans2022distillation": (
        "Salimans, Tim and Ho, Jonathan",
        "Progressive Distillation for Fast Sampling of Diffusion Models",
        "International Conference on Learning Representations",
        2022,
    ),
    "dhariwal2021guidance": (
        "Dhariwal, Prafulla and Nichol, Alexander",
        "Diffusion Models Beat {GANs} on Image Synthesis",
        "Advances in Neural Information Processing Systems",
        2021,
    ),
    "ho2022cfg": (
        "Ho, Jonathan and Salimans, Tim",
        "Classifier-Free Diffusion Guidance",
        "arXiv:2207.12598",
        2022,
    ),
    "kynkaanniemi2024interval": (
        'Kynk{\\"a}{\\"a}nniemi, Tuomas and Aittala, Miika and Karras, Tero and Laine, Samuli and Aila, Timo '
        "and Lehtinen, Jaakko",
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        "Advances in Neural Information Processing Systems",
        2024,
    ),
    "boys2023tmpd": (
        "Boys, Benjamin and Girolami, Mark and Pidstrigach, Jakiw and Reich, Sebastian and Mosca, Alan and "
        "Akyildiz, O. Deniz",
        "{Tweedie} Moment Projected Diffusions for Inverse Problems",
        "arXiv:2310.06721",
        2023,
    ),
    "rozet2024mmps": (
        "Rozet, Fran{\\c{c}}ois and Andry, G{\\'e}r{\\^o}me and Lanusse, Fran{\\c{c}}ois and Louppe, Gilles",
        "Learning Diffusion Priors from Observations by Expectation Maximization",
        "Advances in Neural Information Processing Systems",
        2024,
    ),
    "song2023pgdm": (
        "Song, Jiaming and Vahdat, Arash and Mardani, Morteza and Kautz, Jan",
        "Pseudoinverse-Guided Diffusion Models for Inverse Problems",
        "International Conference on Learning Representations",
        2023,
    ),
    "wu2023tds": (
        "Wu, Luhuan and Trippe, Brian L. and Naesseth, Christian A. and Blei, David M. and Cunningham, John P.",
        "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
        "Advances in Neural Information Processing Systems",
        2023,
    ),
    "roberts1996langevin": (
        "Roberts, Gareth O. and Tweedie, Richard L.",
        "Exponential Convergence of {Langevin} Distributions and Their Discrete Approximations",
        "Bernoulli 2(4)",
        1996,
    ),
    "hutchinson1990trace": (
        "Hutchinson, Michael F.",
        "A Stochastic Estimator of the Trace of the Influence Matrix for {Laplacian} Smoothing Splines",
        "Communications in Statistics - Simulation and Computation 19(2)",
        1990,
    ),
}

#: The name of an SDE, a predictor, a corrector, a time spacing, a prediction type, a network or a method: its papers.
CITED: dict[str, tuple[str, ...]] = {
    "VESDEScheduler": ("song2019ncsn",),
    "VPSDEScheduler": ("ho2020ddpm",),
    "SubVPSDEScheduler": (),
    "euler_maruyama": (),
    "reverse_diffusion": (),
    "probability_flow": (),
    "ancestral": ("ho2020ddpm",),
    "ancestral_large": ("ho2020ddpm",),
    "exponential": ("song2021ddim",),
    "exponential_multistep": ("zhang2023deis",),
    "exponential_adams_bashforth": ("zhang2023deis",),
    "restart": ("xu2023restart",),
    "heun": ("karras2022edm",),
    "langevin": (),
    "annealed_langevin": ("song2019ncsn",),
    "metropolis_langevin": ("roberts1996langevin",),
    "linspace": (),
    "leading": (),
    "trailing": (),
    "official": (),
    "log_snr": ("lu2022dpmsolver",),
    "karras": ("karras2022edm",),
    "score": (),
    "epsilon": (),
    "sample": (),
    "v_prediction": ("salimans2022distillation",),
    "edm": ("karras2022edm",),
    "NCSNpp": (),
    "DDPMpp": (),
    "NCSNv2": ("song2020ncsnv2",),
    "UNet2DModel": ("ho2020ddpm",),
    "ode": (),
    "replacement": (),
    "moment_matching": ("boys2023tmpd", "rozet2024mmps"),
    "pseudo_inverse": ("song2023pgdm",),
    "twisted_smc": ("wu2023tds",),
    "classifier_guidance": ("dhariwal2021guidance",),
    "classifier_free_guidance": ("ho2022cfg",),
    "guidance_interval": ("kynkaanniemi2024interval",),
    "likelihood": ("hutchinson1990trace",),
}

#: The names that may be passed to `cite`; the others follow from the pipeline.
METHODS = (
    "ode",
    "replacement",
    "moment_matching",
    "pseudo_inverse",
    "twisted_smc",
    "classifier_guidance",
    "classifier_free_guidance",
    "guidance_interval",
    "likelihood",
)
