"""Every term of the lessons, once: lesson 00 prints it, the documentation lists it, a test looks each one up."""

from __future__ import annotations

from difflib import get_close_matches

GLOSSARY: dict[str, str] = {
    "fMRI": "Functional magnetic resonance imaging: a scanner measures, every second or two, how much oxygen the "
    "blood carries in each small cube of the brain. Neurons that work draw in fresh blood a few seconds later.",
    "BOLD": "Blood-oxygen-level-dependent signal: what an fMRI scanner measures. It is slow and indirect.",
    "voxel": "A volume pixel: one cube of brain, 2 to 3 mm wide, holding some hundred thousand neurons.",
    "TR": "Repetition time: seconds from one picture of the whole brain to the next, mostly 1 to 3.",
    "volume": "One picture of the whole brain, a three-dimensional array; a scan is a film of them.",
    "run": "Some minutes of scanning without a break; on disk one file.",
    "trial": "One showing of one picture, and the brain's answer to it. A picture shown 35 times makes 35 trials.",
    "haemodynamic response": "How the blood answers a short burst of neural work: nothing for two seconds, a peak "
    "after five or six, a small dip, back after twenty. Also called HRF.",
    "GLM": "General linear model: each voxel's time course as a weighted sum of expected responses, one a trial or "
    "condition. The weights are the betas.",
    "beta": "The size of one voxel's response to one trial, estimated by a GLM. A scan here is a row of them.",
    "design matrix": "The columns of a GLM, one value a volume: what each trial alone would do to the signal, and slow "
    "drift. A column is also called a regressor.",
    "ROI": "Region of interest: a set of voxels with a name and a role, such as V1.",
    "V1": "Primary visual cortex, at the back of the head: edges and brightness, place by place. V2 and V3 follow it.",
    "V4": "An area in the visual stream that cares for colour.",
    "LOC": "Lateral occipital complex: cares for the shape of objects, little for where they are.",
    "receptive field": "The part of the visual field that moves a neuron or, averaged over its neurons, a voxel.",
    "noise ceiling": "How well the best prediction from the picture could correlate with a voxel, given how much of it "
    "is noise.",
    "z-score": "Minus the mean, divided by the standard deviation. Both must come from training data alone.",
    "leak": "Anything by which knowledge of the test set reaches a model: shared pictures, shared statistics, choices "
    "made while looking at test scores.",
    "train, val, test": "Data to learn from; data to choose by; data opened once, at the end.",
    "chance level": "What guessing scores. A score means nothing without it.",
    "confidence interval": "Where the score would likely lie if the experiment were done again, with other categories "
    "where these are new to the decoder, else with other stimuli. Here: 95 %, by drawing them again with replacement "
    "(bootstrap).",
    "category": "In the simulated world a colour and a shape, such as yellow ring: 50 in all. 40 of them occur in the "
    "training scans, the other 10 in the test.",
    "encoder": "A network from data to features. A decoder goes back.",
    "autoencoder": "Encoder and decoder trained to give back what went in, through something narrower or damaged.",
    "patch": "Some neighbouring voxels, or a small square of pixels, treated as one token.",
    "token": "One vector of the sequence that a transformer works on.",
    "transformer": "A stack of blocks that read a sequence of tokens; in each block every token takes in something of "
    "the others by attention, and passes through a small network.",
    "CLS": "One more token, in front of the others, that belongs to no patch and can collect what concerns the whole.",
    "mask": "Which patches are hidden; 1 means hidden.",
    "masked autoencoder": "Sees a few patches and must tell the hidden ones (He et al., 2022).",
    "attention": "Each token asks a question (query), every token offers a label (key) and a content (value); a token "
    "takes the contents whose labels fit its question.",
    "cross-attention": "Attention whose queries come from one sequence, and keys and values from another: from fMRI "
    "and image, here.",
    "head": "One of several attentions side by side in a layer, each with a slice of the width.",
    "cosine": "How alike the directions of two vectors are, whatever their lengths: 1 the same, 0 at right angles.",
    "contrastive loss": "Pulls two views of one thing together and pushes views of other things away.",
    "InfoNCE": "The contrastive loss used here: find your partner in the batch; guessing scores log(batch size).",
    "nat": "The unit of a loss made with natural logarithms; log 2 = 0.69 nats are one bit.",
    "softmax": "Exponentials divided by their sum: turns any numbers into shares that add up to 1.",
    "temperature": "Divides similarities before a softmax; small values make it care for the nearest only.",
    "positive and negative": "The partner that a query should find; everybody else in the batch.",
    "latent": "A small code of a picture that a decoder can turn back into pixels.",
    "VQ": "Vector quantisation: each latent vector is replaced by the nearest of a learnt codebook.",
    "diffusion model": "Learns to remove noise; run from pure noise, step by step, it paints.",
    "epsilon": "The noise that was added, which the network predicts.",
    "timestep": "How much noise there is, from 0, almost none, to 999, almost nothing else.",
    "time embedding": "The vector that tells the UNet which timestep it is. A time head adds to it what the scan says.",
    "UNet": "The network that predicts the noise: down to coarse maps, up again, with short cuts.",
    "condition": "What tells a diffusion model what to paint: a label, a text, here a scan.",
    "context": "The tokens that the cross-attentions of the UNet read: one for a label, 32 for a scan at class size. A "
    "mapper makes them of the encoder's tokens.",
    "guidance": "Classifier-free guidance: go further in the direction in which the condition changes the prediction. "
    "1 is none.",
    "sampler": "The rule by which noise is removed in fewer steps than it was added: DDIM, PNDM, DPM-Solver++.",
    "prior": "What a model knows of pictures before it has seen a scan. It fills in whatever the scan does not say.",
    "phase 1, phase 2": "The paper's two trainings of the fMRI encoder: on scans alone, masked and contrasted; then on "
    "scans and pictures together. Fine-tuning comes after them.",
    "frozen": "Left as it is: weights that a training does not change.",
    "fine-tuning": "Training on with a few parts free and the rest frozen.",
    "EMA": "Exponential moving average of the weights, smoother than the weights themselves.",
    "ridge regression": "Linear regression that pays for large weights: the fair, fast rival of every deep decoder.",
    "linear probe": "A linear classifier trained on a network's features, to see what they hold; the network stays as "
    "it is.",
    "ablation": "Training again with one part left out, to see what that part was good for.",
    "zero-shot": "Tested on categories that the decoder never had a scan of.",
    "n-way identification": "Among n candidates, is the right one named? Chance is 1/n.",
    "pairwise identification": "Is the reconstruction nearer to its own picture than to another? Chance is one half.",
    "PCC": "Pearson correlation coefficient, here between the pixels of two pictures.",
    "SSIM": "Structural similarity: compares local means, contrasts and patterns; 1 for equal pictures.",
    "top-k": "A guess counts if the right answer is among the k best of n; chance is k/n.",
    "referee": "Our classifier: it has learnt from pictures, never from a scan, and names what a picture shows.",
    "lesion": "A region's voxels set to 0, their mean, to see what the reconstruction loses.",
    "permutation test": "Pair scans and pictures at random many times: p is the share of pairings, the true one among "
    "them, that score at least as high as the true one.",
    "double dipping": "Choosing and judging with the same data; also called circular analysis.",
    "cross-validation": "Cut the trials into parts; each is the test set once, for a decoder that never saw it.",
    "activations": "What the forward pass must remember so that the backward pass can differentiate it.",
    "gradient accumulation": "Add up the gradients of several small passes, then update once: a large batch in pieces.",
    "bfloat16": "A number in 2 bytes, with the range of float32 and fewer digits.",
    "FLOP": "One operation on numbers, a product or a sum; a GFLOP is a thousand million of them.",
    "pickle": "A file of Python objects that is really a program: opening one means running it.",
    "safetensors": "A file of names, shapes and numbers, with no place for a program.",
}


def define(term: str) -> str:
    """The words for a term, whatever its capitals.

    Raises:
        KeyError: no such term; the message names the nearest.
    """
    names = {name.lower(): name for name in GLOSSARY}
    if term.lower() in names:
        return GLOSSARY[names[term.lower()]]
    near = get_close_matches(term.lower(), names, n=1)
    raise KeyError(f"no term {term!r} in the glossary" + (f"; did you mean {names[near[0]]!r}?" if near else ""))
