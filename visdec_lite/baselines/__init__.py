"""What the method is compared with. Nothing in here may import the method itself.

ridge    linear regression from voxels to pixels or latents
"""
