"""What the method is compared with. Nothing in here may import the method itself.

base                    the face all of them show, and the record of how each was tuned
ridge                   linear regression from voxels to pixels or latents
ssae, ssae_networks     an encoder and a decoder that check each other (Beliy et al., 2019)
icgan                   ridge to the inputs of an instance-conditioned GAN (Ozcelik et al., 2022)
instance_gan(_training) that GAN (Casanova et al., 2021)
floors                  what reading nothing scores, and what knowing everything does

The remaining comparator, DC-LDM / MinD-Vis (Chen et al., 2023), is the method's own stages without what is new in it.
"""
