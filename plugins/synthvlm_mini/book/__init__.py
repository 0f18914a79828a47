"""The picture book: the world of the miniature models. Scenes, how they are drawn, and the captions that tell of them."""
